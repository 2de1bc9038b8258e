#include "ps/net/server_handshake.h"

#include <chrono>
#include <utility>

#include "ps/net/tls_stream.h"
#include "ps/wire/messages.h"

namespace ps::net {

using wire::FrameHeader;
using wire::MessageType;

static_assert(sizeof(wire::Nonce) == sizeof(wire::Digest), "hello and proof have the same size");

ServerHandshake::ServerHandshake(std::shared_ptr<ListenerCore> core, asio::io_context& context,
                                 bool over_unix)
    : core_(std::move(core)), over_unix_(over_unix) {
  socket_ = std::make_unique<StreamSocket>(context);
  timer_ = std::make_unique<asio::steady_timer>(context);
}

void ServerHandshake::Start(Fd fd, Done done) {
  done_ = std::move(done);
  peer_ = PeerAddress(fd.get());
  if (Status status = Open(std::move(fd)); !status.ok()) return Finish(status);
  timer_->expires_after(std::chrono::milliseconds(core_->options.handshake_timeout_ms));
  timer_->async_wait([self = shared_from_this()](const asio::error_code& cancelled) {
    if (cancelled) return;
    self->Abort(Status(StatusCode::kTimeout,
                       "no handshake within " +
                           std::to_string(self->core_->options.handshake_timeout_ms) + " ms"));
  });
  ShakeStreamHands();
}

Status ServerHandshake::Open(Fd fd) {
  asio::error_code error;
  int family = over_unix_ ? AF_UNIX : AF_INET;  // of no consequence: the socket is open already
  socket_->assign(asio::generic::stream_protocol(family, 0), fd.get(), error);
  if (error) return ConnectionError("cannot watch a socket: " + error.message());
  int socket = fd.release();
  const auto& tls = core_->options.tls;
  if (over_unix_ || tls == nullptr) {
    stream_ = MakePlainStream(socket);
    return Status::Ok();
  }
  PS_ASSIGN_OR_RETURN(stream_, MakeTlsServerStream(socket, *tls));
  return Status::Ok();
}

void ServerHandshake::ShakeStreamHands() {
  Result<Stream::Handshake> state = stream_->ShakeHands();
  if (!state.ok()) return OnForeignStream(state.status());
  if (*state == Stream::Handshake::kDone) return Read();
  bool wants_read = *state == Stream::Handshake::kWantsRead;
  socket_->async_wait(wants_read ? asio::socket_base::wait_read : asio::socket_base::wait_write,
                      [self = shared_from_this()](const asio::error_code& error) {
                        if (!self->done_) return;
                        error ? self->Finish(ConnectionError(error.message()))
                              : self->ShakeStreamHands();
                      });
}

// A peer of this protocol that came without TLS is told so in its own words.
void ServerHandshake::OnForeignStream(const Status& why) {
  if (why.code() == StatusCode::kConfiguration) {
    auto plain = MakePlainStream(socket_->native_handle());
    WriteHandshakeFrame(plain.get(), over_unix_, MessageType::kError, wire::EncodeError(why));
  }
  Finish(why);
}

void ServerHandshake::Abort(const Status& why) { Finish(why); }

void ServerHandshake::CloseWithoutContext() {
  done_ = nullptr;
  stream_.reset();
  socket_.reset();
  timer_.reset();
}

void ServerHandshake::Read() {
  std::span<std::byte> free = std::span(frame_).subspan(arrived_);
  AsyncReadSome(socket_.get(), stream_.get(), free,
                [self = shared_from_this()](const Result<std::size_t>& got) { self->OnRead(got); });
}

void ServerHandshake::OnRead(const Result<std::size_t>& got) {
  if (!done_) return;
  if (!got.ok()) return Finish(got.status());
  arrived_ += *got;
  if (arrived_ < frame_.size()) return Read();
  arrived_ = 0;
  if (Status status = TakeFrame(); !status.ok()) {
    // So that an honest peer can say what is wrong. A stranger learns nothing from it.
    WriteHandshakeFrame(stream_.get(), over_unix_, MessageType::kError, wire::EncodeError(status));
    return Finish(status);
  }
  if (proof_seen_) return Finish(Status::Ok());
  Read();
}

Status ServerHandshake::TakeFrame() {
  std::span<const std::byte> bytes(frame_);
  PS_ASSIGN_OR_RETURN(FrameHeader header, wire::DecodeHeader(bytes.first<wire::kFrameHeaderBytes>(),
                                                             limits::kHandshakePayloadBytesMax));
  std::span<const std::byte> payload = bytes.subspan(wire::kFrameHeaderBytes);
  PS_RETURN_IF_ERROR(wire::CheckPayload(header, payload));
  MessageType expected = hello_seen_ ? MessageType::kProof : MessageType::kHello;
  if (header.type != expected) {
    return Status(StatusCode::kAuthentication, "nothing is served before the handshake");
  }
  return hello_seen_ ? CheckProof(payload) : AnswerHello(payload);
}

Status ServerHandshake::AnswerHello(std::span<const std::byte> payload) {
  PS_ASSIGN_OR_RETURN(wire::Hello hello, wire::DecodeHello(payload));
  PS_ASSIGN_OR_RETURN(server_nonce_, wire::RandomNonce());
  client_nonce_ = hello.nonce;
  hello_seen_ = true;
  const ListenerOptions& options = core_->options;
  wire::Digest proof =
      wire::ServerProof(options.secret, client_nonce_, server_nonce_, options.identity);
  std::string challenge = wire::EncodeChallenge({server_nonce_, options.identity, proof});
  bool written = WriteHandshakeFrame(stream_.get(), over_unix_, MessageType::kChallenge,
                                     std::as_bytes(std::span(challenge.data(), challenge.size())));
  return written ? Status::Ok() : ConnectionError("the peer does not take the challenge");
}

Status ServerHandshake::CheckProof(std::span<const std::byte> payload) {
  PS_ASSIGN_OR_RETURN(wire::Proof proof, wire::DecodeProof(payload));
  const ListenerOptions& options = core_->options;
  wire::Digest expected =
      wire::ClientProof(options.secret, client_nonce_, server_nonce_, options.identity);
  if (!wire::DigestsEqual(proof.proof, expected)) {
    return Status(StatusCode::kAuthentication, "the peer does not know this job's secret");
  }
  proof_seen_ = true;
  return Status::Ok();
}

void ServerHandshake::Finish(const Status& status) {
  if (!done_) return;
  bool authenticated = status.ok();
  Done done = std::exchange(done_, nullptr);
  std::unique_ptr<Stream> stream = std::move(stream_);
  Fd fd;
  if (authenticated) {
    asio::error_code error;
    fd = Fd(socket_->release(error));
    authenticated = !error;
  }
  if (!authenticated) {
    core_->authentication_failures_total.fetch_add(1, std::memory_order_relaxed);
    // A client that finds another secret in the challenge leaves; a probe of the port, before
    // hello.
    bool just_left = status.code() == StatusCode::kConnection && !hello_seen_;
    if (!status.ok() && !just_left && !core_->detached()) core_->handler->OnRefused(peer_, status);
  }
  socket_.reset();
  timer_.reset();
  done(shared_from_this(), std::move(fd), std::move(stream));
}

namespace {

using Head = std::array<std::byte, wire::kFrameHeaderBytes>;

Head HeadOf(bool over_unix, MessageType type, std::span<const std::byte> payload) {
  FrameHeader header;
  header.type = type;
  header.payload_bytes = header.raw_bytes = static_cast<std::uint32_t>(payload.size());
  if (!over_unix) {
    header.flags = wire::kChecksummed;
    header.payload_checksum = wire::PayloadChecksum(payload);
  }
  Head head;
  wire::EncodeHeader(header, head);
  return head;
}

}  // namespace

bool WriteHandshakeFrame(Stream* stream, bool over_unix, MessageType type,
                         std::span<const std::byte> payload) {
  Head head = HeadOf(over_unix, type, payload);
  iovec parts[2] = {{head.data(), head.size()},
                    {const_cast<std::byte*>(payload.data()), payload.size()}};
  auto sent = stream->WriteSome(std::span(parts, payload.empty() ? 1 : 2));
  return sent.ok() && *sent == head.size() + payload.size();
}

bool WriteWelcome(Stream* stream, int socket, bool over_unix, int descriptor) {
  if (descriptor < 0) return WriteHandshakeFrame(stream, over_unix, MessageType::kWelcome, {});
  return SendWithDescriptor(socket, HeadOf(over_unix, MessageType::kWelcome, {}), descriptor);
}

}  // namespace ps::net
