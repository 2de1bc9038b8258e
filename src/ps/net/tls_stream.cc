#include "ps/net/tls_stream.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <utility>

#include "ps/net/openssl_objects.h"
#include "ps/wire/frame.h"

namespace ps::net {
namespace {

// TLS 1.3 adds 5 + 1 + 16 bytes to a record; 256 leave room for any suite.
constexpr std::size_t kRecordBytesMax = SSL3_RT_MAX_PLAIN_LENGTH;
constexpr std::size_t kRecordOverheadMax = 256;
// That go out, or come in, with one system call.
constexpr std::size_t kRecordsAtOnce = 4;
constexpr std::size_t kSealedBytesMax = kRecordsAtOnce * kRecordBytesMax;
// Besides a record of the protocol's own.
constexpr std::size_t kBioBytes = (kRecordsAtOnce + 1) * kRecordOverheadMax + kSealedBytesMax;
// Then other connections of the thread have their turn.
constexpr int kReceivesMax = 4;

// Cuts what is to be written into records. No part is empty.
class Records {
 public:
  explicit Records(std::span<const iovec> parts) : parts_(parts) {}
  bool is_at_end() const { return parts_.empty(); }

  // Up to room.size() bytes: of a large part as they lie, of small ones gathered in `room`.
  std::span<const std::byte> Next(std::span<std::byte> room) {
    bool is_whole = parts_.size() == 1 || parts_.front().iov_len - taken_ >= room.size();
    if (is_whole) return Take(room.size());
    std::size_t filled = 0;
    while (filled < room.size() && !is_at_end()) {
      std::span<const std::byte> piece = Take(room.size() - filled);
      std::memcpy(room.data() + filled, piece.data(), piece.size());
      filled += piece.size();
    }
    return room.first(filled);
  }

 private:
  std::span<const std::byte> Take(std::size_t bytes_max) {
    const iovec& part = parts_.front();
    std::size_t bytes = std::min(part.iov_len - taken_, bytes_max);
    std::span<const std::byte> piece(static_cast<const std::byte*>(part.iov_base) + taken_, bytes);
    taken_ += bytes;
    if (taken_ == part.iov_len) {
      parts_ = parts_.subspan(1);
      taken_ = 0;
    }
    return piece;
  }

  std::span<const iovec> parts_;
  std::size_t taken_ = 0;  // of the first part
};

class TlsStream final : public Stream {
 public:
  TlsStream(int fd, std::string fingerprint) : fd_(fd), fingerprint_(std::move(fingerprint)) {}
  Status Open(SSL_CTX* context, bool accepts);

  Result<Handshake> ShakeHands() override;
  Result<std::size_t> WriteSome(std::span<const iovec> parts) override;
  Result<std::size_t> ReadSome(std::span<std::byte> out) override;
  bool may_have_more() const override { return may_have_more_; }
  bool is_plain() const override { return false; }

 private:
  Result<bool> SendRecords();
  Result<std::size_t> ReceiveRecords();
  Status Seal(std::span<const iovec> parts);
  Status Failure(StatusCode code, const std::string& what);
  Status CheckPeer() const;

  const int fd_;
  const std::string fingerprint_;  // of the peer; "": anyone
  std::mutex mutex_;
  SslPtr ssl_;
  BioPtr network_;  // our end of the pair whose other end is ssl_'s
  // Bytes of the writer whose records are not wholly sent: they count as taken when they are.
  std::size_t sealed_ = 0;
  bool may_have_more_ = false;  // the reader's
  std::array<std::byte, sizeof(wire::kFrameMagic)> first_bytes_{};
  std::size_t first_bytes_seen_ = 0;
};

Status TlsStream::Open(SSL_CTX* context, bool accepts) {
  BIO* inner = nullptr;
  BIO* outer = nullptr;
  ssl_.reset(context == nullptr ? nullptr : SSL_new(context));
  if (ssl_ == nullptr || BIO_new_bio_pair(&inner, kBioBytes, &outer, kBioBytes) != 1) {
    return ConnectionError("cannot set up TLS: " + OpenSslError());
  }
  SSL_set_bio(ssl_.get(), inner, inner);
  network_.reset(outer);
  accepts ? SSL_set_accept_state(ssl_.get()) : SSL_set_connect_state(ssl_.get());
  return Status::Ok();
}

Result<Stream::Handshake> TlsStream::ShakeHands() {
  std::lock_guard lock(mutex_);
  while (true) {
    ERR_clear_error();
    int done = SSL_do_handshake(ssl_.get());
    int why = SSL_get_error(ssl_.get(), done);
    bool failed = done != 1 && why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE;
    if (failed) return Failure(StatusCode::kConnection, "the TLS handshake failed");
    PS_ASSIGN_OR_RETURN(bool sent, SendRecords());
    if (!sent) return Handshake::kWantsWrite;
    if (done == 1) {
      PS_RETURN_IF_ERROR(CheckPeer());
      return Handshake::kDone;
    }
    if (why == SSL_ERROR_WANT_WRITE) continue;
    PS_ASSIGN_OR_RETURN(std::size_t received, ReceiveRecords());
    if (received == 0) return Handshake::kWantsRead;
  }
}

Result<std::size_t> TlsStream::WriteSome(std::span<const iovec> parts) {
  std::lock_guard lock(mutex_);
  if (sealed_ == 0) {
    PS_ASSIGN_OR_RETURN(bool sent, SendRecords());
    if (!sent) return std::size_t{0};
    PS_RETURN_IF_ERROR(Seal(parts));
  }
  PS_ASSIGN_OR_RETURN(bool sent, SendRecords());
  return sent ? std::exchange(sealed_, 0) : 0;
}

Result<std::size_t> TlsStream::ReadSome(std::span<std::byte> out) {
  std::lock_guard lock(mutex_);
  std::size_t filled = 0;
  int receives = 0;
  may_have_more_ = true;
  while (filled < out.size()) {
    std::size_t got = 0;
    ERR_clear_error();
    if (SSL_read_ex(ssl_.get(), out.data() + filled, out.size() - filled, &got) == 1) {
      filled += got;
      continue;
    }
    int why = SSL_get_error(ssl_.get(), 0);
    // What failed fails again at the next call.
    if (why != SSL_ERROR_WANT_READ) {
      if (filled > 0) break;
      if (why == SSL_ERROR_ZERO_RETURN) return ConnectionError("the peer closed the connection");
      return Failure(StatusCode::kDataCorruption, "receiving by TLS failed");
    }
    if (receives == kReceivesMax && filled > 0) break;
    auto received = ReceiveRecords();
    ++receives;
    if (!received.ok() && filled == 0) return received.status();
    if (!received.ok() || *received == 0) {
      may_have_more_ = false;
      break;
    }
  }
  return filled;
}

// True when no record waits any more.
Result<bool> TlsStream::SendRecords() {
  while (true) {
    char* data = nullptr;
    int bytes = BIO_nread0(network_.get(), &data);
    if (bytes <= 0) return true;
    iovec part{data, static_cast<std::size_t>(bytes)};
    PS_ASSIGN_OR_RETURN(std::size_t sent, WriteSomeTo(fd_, std::span(&part, 1)));
    if (sent == 0) return false;
    BIO_nread(network_.get(), &data, static_cast<int>(sent));
  }
}

// 0: the socket has none.
Result<std::size_t> TlsStream::ReceiveRecords() {
  char* place = nullptr;
  int room = BIO_nwrite0(network_.get(), &place);
  if (room <= 0) return Internal("TLS takes no record");
  std::span<std::byte> free(reinterpret_cast<std::byte*>(place), static_cast<std::size_t>(room));
  PS_ASSIGN_OR_RETURN(std::size_t got, ReadSomeFrom(fd_, free));
  BIO_nwrite(network_.get(), &place, static_cast<int>(got));
  std::size_t first = std::min(got, first_bytes_.size() - first_bytes_seen_);
  if (first > 0) std::memcpy(first_bytes_.data() + first_bytes_seen_, place, first);
  first_bytes_seen_ += first;
  return got;
}

Status TlsStream::Seal(std::span<const iovec> parts) {
  std::array<std::byte, kRecordBytesMax> room;
  Records records(parts);
  while (!records.is_at_end() && sealed_ < kSealedBytesMax) {
    std::span<const std::byte> record = records.Next(room);
    std::size_t written = 0;
    ERR_clear_error();
    if (SSL_write_ex(ssl_.get(), record.data(), record.size(), &written) != 1) {
      return Failure(StatusCode::kConnection, "sending by TLS failed");
    }
    sealed_ += record.size();
  }
  return Status::Ok();
}

// Also tells the peer, where it listens.
Status TlsStream::Failure(StatusCode code, const std::string& what) {
  std::string why = OpenSslError();
  std::uint32_t first = 0;
  std::memcpy(&first, first_bytes_.data(), sizeof(first));
  if (first_bytes_seen_ == first_bytes_.size() && first == wire::kFrameMagic) {
    return Status(StatusCode::kConfiguration,
                  "one side speaks by TLS, the other one without: take the servers' addresses from "
                  "PSMainClient.get_server_info(); servers that are started by hand and their "
                  "drivers need the same tls and tls_cert_file");
  }
  (void)SendRecords();
  return Status(code, what + ": " + why);
}

Status TlsStream::CheckPeer() const {
  if (fingerprint_.empty()) return Status::Ok();
  CertificatePtr certificate(SSL_get1_peer_certificate(ssl_.get()));
  std::string found = FingerprintOf(certificate.get());
  if (found == fingerprint_) return Status::Ok();
  return Status(StatusCode::kAuthentication,
                "it shows another certificate than this job's (SHA-256 " + found + ", expected " +
                    fingerprint_ + "); it belongs to another job, or tls_cert_file differs");
}

Result<std::unique_ptr<Stream>> Opened(std::unique_ptr<TlsStream> stream, SSL_CTX* context,
                                       bool accepts) {
  PS_RETURN_IF_ERROR(stream->Open(context, accepts));
  return std::unique_ptr<Stream>(std::move(stream));
}

// Kept for ever: threads may be amid a call when the process ends.
SSL_CTX* ClientContext() {
  static SSL_CTX* const context = MakeSslContext(TLS_client_method()).release();
  return context;
}

}  // namespace

Result<std::unique_ptr<Stream>> MakeTlsServerStream(int fd, const TlsIdentity& identity) {
  return Opened(std::make_unique<TlsStream>(fd, ""), identity.context(), true);
}

Result<std::unique_ptr<Stream>> MakeTlsClientStream(int fd, std::string fingerprint) {
  return Opened(std::make_unique<TlsStream>(fd, std::move(fingerprint)), ClientContext(), false);
}

}  // namespace ps::net
