#include "ps/net/client_connection.h"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "ps/net/resolve.h"
#include "ps/net/shared_memory.h"
#include "ps/net/socket.h"
#include "ps/net/tls_stream.h"
#include "ps/wire/messages.h"

namespace ps::net {

using wire::FrameHeader;
using wire::MessageType;

namespace {

using Part = std::span<const std::byte>;

// Holds a reply of 16 rows of 64 floats with its header, so that it comes with one call; not more,
// because what is read ahead of a large payload is copied once more.
constexpr std::size_t kReadAheadBytes = 8'192;
// A Unix listener whose queue is full refuses at once, and poll(2) cannot wait for a place in it.
constexpr auto kQueueFullPause = std::chrono::milliseconds(5);

Part AsPart(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

Status Named(const Status& status, const std::string& peer) {
  return Status(status.code(), peer + ": " + status.message());
}

std::string IncarnationText(std::uint64_t incarnation) {
  char text[17];
  std::snprintf(text, sizeof(text), "%016llx", static_cast<unsigned long long>(incarnation));
  return text;
}

bool SocketFileExists(const std::string& path) {
  struct stat info {};
  return !path.empty() && stat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode);
}

Status ConnectUntil(int fd, const SocketAddress& address, SteadyTime deadline,
                    const IsInterrupted& is_interrupted) {
  while (connect(fd, address.get(), address.bytes) != 0) {
    if (errno == EINTR || errno == EALREADY) continue;
    if (errno == EAGAIN) {
      if (Now() + kQueueFullPause >= deadline) {
        return TimeoutError("timed out while waiting for a place in the listener's queue");
      }
      if (is_interrupted && is_interrupted()) {
        return Status(StatusCode::kClosed, "interrupted while connecting");
      }
      std::this_thread::sleep_for(kQueueFullPause);
      continue;
    }
    if (errno == EISCONN) return Status::Ok();
    if (errno != EINPROGRESS) return ConnectionError("cannot connect: " + ErrnoText(errno));
    PS_RETURN_IF_ERROR(WaitUntilReady(fd, POLLOUT, deadline, "connecting", is_interrupted));
    int error = 0;
    socklen_t bytes = sizeof(error);
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes);
    if (error != 0) return ConnectionError("cannot connect: " + ErrnoText(error));
    return Status::Ok();
  }
  return Status::Ok();
}

SteadyTime ShareOf(SteadyTime deadline, std::size_t shares) {
  SteadyTime now = Now();
  if (deadline <= now) return deadline;
  return now + (deadline - now) / static_cast<std::int64_t>(shares);
}

Result<Fd> ConnectSocket(const SocketAddress& address, const ConnectOptions& options,
                         SteadyTime deadline) {
  PS_ASSIGN_OR_RETURN(Fd fd, OpenStreamSocket(address.family()));
  PS_RETURN_IF_ERROR(ConnectUntil(fd.get(), address, deadline, options.is_interrupted));
  TuneStreamSocket(fd.get(), address.family() == AF_UNIX, options.peer_silence_ms);
  return fd;
}

// The addresses of a host in turn; each gets an equal share of the time left, so that one that
// swallows packets does not hide the next.
Result<Fd> ConnectTcp(const ConnectOptions& options, SteadyTime deadline) {
  PS_ASSIGN_OR_RETURN(auto addresses, Resolve(options.endpoint.host, options.endpoint.port,
                                              deadline, options.is_interrupted));
  Status last = Status::Ok();
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    auto fd = ConnectSocket(addresses[i], options, ShareOf(deadline, addresses.size() - i));
    if (fd.ok() || fd.status().code() == StatusCode::kClosed) return fd;
    last = fd.status();
  }
  return last;
}

}  // namespace

struct ClientConnection::Impl {
  Fd fd;
  std::unique_ptr<Stream> stream;
  bool over_unix = false;
  SharedMemory shared_memory;
  wire::Identity peer;
  Endpoint endpoint;
  std::string name;  // for messages: "server 3 at host:port"
  std::size_t payload_bytes_max = 0;
  wire::Compression compression = wire::Compression::kNone;
  IsInterrupted is_interrupted;
  std::uint64_t last_request_id = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;

  std::vector<iovec> gather;
  std::array<std::byte, kReadAheadBytes> ahead;
  std::size_t ahead_begin = 0;
  std::size_t ahead_end = 0;

  FrameHeader reading;           // of the frame whose payload is being read
  std::size_t payload_left = 0;  // of it
  wire::RunningChecksum checksum;

  std::size_t TakeAhead(std::span<std::byte> out);
  Status FillAhead(std::size_t bytes_min, SteadyTime deadline);
  Status TakeSharedMemory(SteadyTime deadline);
  Status WriteAll(SteadyTime deadline);
  Status ReadAll(std::span<std::byte> out, SteadyTime deadline);
  Status FinishPayload();
};

std::size_t ClientConnection::Impl::TakeAhead(std::span<std::byte> out) {
  std::size_t take = std::min(out.size(), ahead_end - ahead_begin);
  if (take > 0) std::memcpy(out.data(), ahead.data() + ahead_begin, take);
  ahead_begin += take;
  if (ahead_begin == ahead_end) ahead_begin = ahead_end = 0;
  return take;
}

Status ClientConnection::Impl::FillAhead(std::size_t bytes_min, SteadyTime deadline) {
  while (ahead_end - ahead_begin < bytes_min) {
    if (ahead.size() - ahead_begin < bytes_min) {
      std::memmove(ahead.data(), ahead.data() + ahead_begin, ahead_end - ahead_begin);
      ahead_end -= std::exchange(ahead_begin, 0);
    }
    auto got = stream->ReadSome(std::span(ahead).subspan(ahead_end));
    if (!got.ok()) return got.status();
    if (*got == 0) {
      PS_RETURN_IF_ERROR(
          WaitUntilReady(fd.get(), POLLIN, deadline, "waiting for a reply", is_interrupted));
    }
    ahead_end += *got;
    bytes_received += *got;
  }
  return Status::Ok();
}

// Before the welcome is read. Without it rows go through the socket.
Status ClientConnection::Impl::TakeSharedMemory(SteadyTime deadline) {
  PS_RETURN_IF_ERROR(
      WaitUntilReady(fd.get(), POLLIN, deadline, "waiting for a reply", is_interrupted));
  std::optional<Fd> descriptor = PeekDescriptor(fd.get());
  if (!descriptor) return Status::Ok();
  auto memory = SharedMemory::Map(std::move(*descriptor), limits::kSharedMemoryBytes);
  if (memory.ok()) shared_memory = std::move(memory).value();
  return Status::Ok();
}

// Writes `gather` to its end.
Status ClientConnection::Impl::WriteAll(SteadyTime deadline) {
  std::span<iovec> left(gather);
  while (!left.empty()) {
    auto sent = stream->WriteSome(left);
    if (!sent.ok()) return sent.status();
    bytes_sent += *sent;
    std::size_t bytes = *sent;
    while (!left.empty() && bytes >= left.front().iov_len) {
      bytes -= left.front().iov_len;
      left = left.subspan(1);
    }
    if (left.empty()) break;
    left.front().iov_base = static_cast<std::byte*>(left.front().iov_base) + bytes;
    left.front().iov_len -= bytes;
    // Also when bytes were moved: a peer that takes them slowly must not outlast the deadline.
    PS_RETURN_IF_ERROR(WaitUntilReady(fd.get(), POLLOUT, deadline, "sending", is_interrupted));
  }
  return Status::Ok();
}

Status ClientConnection::Impl::ReadAll(std::span<std::byte> out, SteadyTime deadline) {
  std::size_t taken = TakeAhead(out);
  bool checked = (reading.flags & wire::kChecksummed) != 0;
  if (checked) checksum.Add(out.first(taken));
  out = out.subspan(taken);
  while (!out.empty()) {
    auto got = stream->ReadSome(out);
    if (!got.ok()) return got.status();
    bytes_received += *got;
    if (checked) checksum.Add(out.first(*got));
    out = out.subspan(*got);
    bool time_is_up = *got > 0 && Now() >= deadline;
    if (!out.empty() && (*got == 0 || time_is_up)) {
      PS_RETURN_IF_ERROR(
          WaitUntilReady(fd.get(), POLLIN, deadline, "reading a reply", is_interrupted));
    }
  }
  return Status::Ok();
}

Status ClientConnection::Impl::FinishPayload() {
  bool checked = (reading.flags & wire::kChecksummed) != 0;
  if (checked && checksum.value() != reading.payload_checksum) {
    return DataCorruption("the checksum of a reply does not match");
  }
  return Status::Ok();
}

namespace {

// A reply of the handshake: the payload of a frame of `type`.
Result<std::vector<std::byte>> ReadHandshake(ClientConnection* connection, MessageType type,
                                             SteadyTime deadline) {
  auto frame = connection->ReadFrame(deadline);
  if (!frame.ok()) {
    if (frame.status().code() != StatusCode::kDataCorruption) return frame.status();
    return ConnectionError("it does not speak this protocol, or another release of it (" +
                           frame.status().message() + ")");
  }
  if (frame->header.type == MessageType::kError) return wire::DecodeError(frame->payload);
  if (frame->header.type != type) {
    return ConnectionError("unexpected message of type " +
                           std::to_string(static_cast<int>(frame->header.type)) +
                           " during the handshake");
  }
  return std::move(frame->payload);
}

Status SendHandshake(ClientConnection* connection, MessageType type, const std::string& payload,
                     SteadyTime deadline) {
  FrameHeader header;
  header.type = type;
  Part part = AsPart(payload);
  return connection->SendFrame(header, std::span(&part, 1), deadline);
}

Status CheckIdentity(const wire::Identity& expected, const wire::Identity& got) {
  if (got.server_id != expected.server_id) {
    return ConnectionError("server " + std::to_string(got.server_id) +
                           " answers here, not server " + std::to_string(expected.server_id));
  }
  if (expected.incarnation != 0 && got.incarnation != expected.incarnation) {
    return ConnectionError("server " + std::to_string(got.server_id) +
                           " was restarted and has lost its rows (incarnation " +
                           IncarnationText(got.incarnation) + ", expected " +
                           IncarnationText(expected.incarnation) + ")");
  }
  return Status::Ok();
}

// The stream over a connected socket, its handshake done.
Result<std::unique_ptr<Stream>> OpenStream(int fd, bool over_unix, const ConnectOptions& options,
                                           SteadyTime deadline) {
  if (over_unix || options.tls_fingerprint.empty()) return MakePlainStream(fd);
  PS_ASSIGN_OR_RETURN(auto stream, MakeTlsClientStream(fd, options.tls_fingerprint));
  while (true) {
    PS_ASSIGN_OR_RETURN(Stream::Handshake state, stream->ShakeHands());
    if (state == Stream::Handshake::kDone) return stream;
    short events = state == Stream::Handshake::kWantsRead ? POLLIN : POLLOUT;
    PS_RETURN_IF_ERROR(
        WaitUntilReady(fd, events, deadline, "shaking hands by TLS", options.is_interrupted));
  }
}

// All of the handshake but the welcome that ends it.
Result<wire::Identity> Introduce(ClientConnection* connection, const ConnectOptions& options,
                                 SteadyTime deadline) {
  PS_ASSIGN_OR_RETURN(wire::Nonce nonce, wire::RandomNonce());
  PS_RETURN_IF_ERROR(
      SendHandshake(connection, MessageType::kHello, wire::EncodeHello({nonce}), deadline));
  PS_ASSIGN_OR_RETURN(auto payload, ReadHandshake(connection, MessageType::kChallenge, deadline));
  PS_ASSIGN_OR_RETURN(wire::Challenge challenge, wire::DecodeChallenge(payload));
  wire::Digest proof =
      wire::ServerProof(options.secret, nonce, challenge.nonce, challenge.identity);
  if (!wire::DigestsEqual(proof, challenge.proof)) {
    return Status(StatusCode::kAuthentication,
                  "it does not know this job's secret; it belongs to another job, or the secret "
                  "file differs");
  }
  PS_RETURN_IF_ERROR(CheckIdentity(options.expected, challenge.identity));
  wire::Proof answer{wire::ClientProof(options.secret, nonce, challenge.nonce, challenge.identity)};
  PS_RETURN_IF_ERROR(
      SendHandshake(connection, MessageType::kProof, wire::EncodeProof(answer), deadline));
  return challenge.identity;
}

std::string PeerName(const ConnectOptions& options, bool over_unix) {
  std::string who = options.expected.server_id == wire::kCoordinatorId
                        ? "coordinator"
                        : "server " + std::to_string(options.expected.server_id);
  return who + " at " +
         (over_unix ? "unix:" + options.endpoint.unix_path : options.endpoint.ToString());
}

Status CheckOptions(const ConnectOptions& options) {
  if (options.secret.size() < wire::kSecretBytesMin) {
    return InvalidArgument("the job's secret has " + std::to_string(options.secret.size()) +
                           " bytes; at least " + std::to_string(wire::kSecretBytesMin) +
                           " are needed");
  }
  bool has_tcp = !options.endpoint.host.empty() && options.endpoint.port > 0;
  bool has_unix = !options.endpoint.unix_path.empty();
  if ((options.transport == Transport::kTcp && !has_tcp) ||
      (options.transport == Transport::kUnix && !has_unix) || (!has_tcp && !has_unix)) {
    return InvalidArgument(PeerName(options, false) + ": no address for the transport chosen");
  }
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<ClientConnection>> ClientConnection::ConnectOver(
    const ConnectOptions& options, bool over_unix, SteadyTime deadline) {
  auto impl = std::make_unique<Impl>();
  impl->name = PeerName(options, over_unix);
  impl->endpoint = options.endpoint;
  impl->over_unix = over_unix;
  impl->is_interrupted = options.is_interrupted;
  // Until the peer has proved who it is.
  impl->payload_bytes_max = limits::kHandshakePayloadBytesMax;
  Result<Fd> fd = Status(StatusCode::kInternal, "not connected");
  if (over_unix) {
    auto address = UnixAddress(options.endpoint.unix_path);
    fd = address.ok() ? ConnectSocket(*address, options, deadline) : Result<Fd>(address.status());
  } else {
    fd = ConnectTcp(options, deadline);
  }
  if (!fd.ok()) return Named(fd.status(), impl->name);
  impl->fd = std::move(fd).value();
  auto stream = OpenStream(impl->fd.get(), over_unix, options, deadline);
  if (!stream.ok()) return Named(stream.status(), impl->name);
  impl->stream = std::move(stream).value();

  std::string name = std::exchange(impl->name, "");
  std::unique_ptr<ClientConnection> connection(new ClientConnection(std::move(impl)));
  auto identity = connection->ShakeHands(options, deadline);
  if (!identity.ok()) return Named(identity.status(), name);
  connection->impl_->name = std::move(name);
  connection->impl_->peer = *identity;
  connection->impl_->payload_bytes_max = options.payload_bytes_max;
  connection->impl_->compression = options.compression;
  return connection;
}

Result<wire::Identity> ClientConnection::ShakeHands(const ConnectOptions& options,
                                                    SteadyTime deadline) {
  PS_ASSIGN_OR_RETURN(wire::Identity identity, Introduce(this, options, deadline));
  if (impl_->over_unix) PS_RETURN_IF_ERROR(impl_->TakeSharedMemory(deadline));
  PS_RETURN_IF_ERROR(ReadHandshake(this, MessageType::kWelcome, deadline).status());
  return identity;
}

Result<std::unique_ptr<ClientConnection>> ClientConnection::Connect(const ConnectOptions& options,
                                                                    SteadyTime deadline) {
  PS_RETURN_IF_ERROR(CheckOptions(options));
  if (options.transport == Transport::kUnix) return ConnectOver(options, true, deadline);
  bool has_tcp = !options.endpoint.host.empty() && options.endpoint.port > 0;
  if (options.transport == Transport::kAuto &&
      (!has_tcp || SocketFileExists(options.endpoint.unix_path))) {
    // A path may exist on this host by accident, or its server may hang: TCP keeps half the time.
    auto connection = ConnectOver(options, true, has_tcp ? ShareOf(deadline, 2) : deadline);
    bool is_interrupted = connection.status().code() == StatusCode::kClosed;
    if (connection.ok() || !has_tcp || is_interrupted) return connection;
  }
  return ConnectOver(options, false, deadline);
}

ClientConnection::ClientConnection(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ClientConnection::~ClientConnection() = default;

int ClientConnection::fd() const { return impl_->fd.get(); }
bool ClientConnection::over_unix() const { return impl_->over_unix; }
std::span<std::byte> ClientConnection::shared_memory() const {
  return impl_->shared_memory.bytes();
}
const wire::Identity& ClientConnection::peer() const { return impl_->peer; }
const Endpoint& ClientConnection::endpoint() const { return impl_->endpoint; }
std::uint64_t ClientConnection::NextRequestId() { return ++impl_->last_request_id; }
std::uint64_t ClientConnection::bytes_sent() const { return impl_->bytes_sent; }
std::uint64_t ClientConnection::bytes_received() const { return impl_->bytes_received; }
bool ClientConnection::has_buffered() const {
  return impl_->ahead_end != impl_->ahead_begin || impl_->stream->may_have_more();
}

Status ClientConnection::WithName(const Status& status) const {
  if (status.ok() || impl_->name.empty()) return status;
  return Named(status, impl_->name);
}

void ClientConnection::CompleteHeader(FrameHeader* header, std::span<const Part> parts) const {
  std::size_t bytes = 0;
  for (Part part : parts) bytes += part.size();
  header->flags &= wire::kMore;
  header->payload_bytes = header->raw_bytes = static_cast<std::uint32_t>(bytes);
  header->payload_checksum = 0;
  if (impl_->over_unix) return;
  header->flags |= wire::kChecksummed;
  if (parts.size() == 1) {
    header->payload_checksum = wire::PayloadChecksum(parts.front());
    return;
  }
  wire::RunningChecksum checksum;
  for (Part part : parts) checksum.Add(part);
  header->payload_checksum = checksum.value();
}

Status ClientConnection::SendFrame(FrameHeader header, std::span<const Part> parts,
                                   SteadyTime deadline) {
  std::size_t bytes = 0;
  for (Part part : parts) bytes += part.size();
  if (bytes > impl_->payload_bytes_max) {
    return WithName(InvalidArgument("a frame's payload of " + std::to_string(bytes) +
                                    " bytes is more than the limit of " +
                                    std::to_string(impl_->payload_bytes_max)));
  }
  std::vector<std::byte> compressed;
  Part compressed_part;
  bool is_compressed =
      !impl_->over_unix && wire::TryCompress(impl_->compression, parts, &compressed);
  if (is_compressed) {
    compressed_part = compressed;
    parts = std::span(&compressed_part, 1);
  }
  CompleteHeader(&header, parts);
  if (is_compressed) {
    header.flags |= wire::CompressionFlag(impl_->compression);
    header.raw_bytes = static_cast<std::uint32_t>(bytes);
  }
  std::array<std::byte, wire::kFrameHeaderBytes> head;
  wire::EncodeHeader(header, head);
  impl_->gather.clear();
  impl_->gather.push_back({head.data(), head.size()});
  for (Part part : parts) {
    if (part.empty()) continue;
    impl_->gather.push_back({const_cast<std::byte*>(part.data()), part.size()});
  }
  return WithName(impl_->WriteAll(deadline));
}

Result<FrameHeader> ClientConnection::ReadHeader(SteadyTime deadline) {
  if (impl_->payload_left != 0) {
    return WithName(
        Internal(std::to_string(impl_->payload_left) + " bytes of the last payload were not read"));
  }
  Status status = impl_->FillAhead(wire::kFrameHeaderBytes, deadline);
  if (!status.ok()) return WithName(status);
  std::array<std::byte, wire::kFrameHeaderBytes> head;
  impl_->TakeAhead(head);
  auto header = wire::DecodeHeader(head, impl_->payload_bytes_max);
  if (!header.ok()) return WithName(header.status());
  impl_->reading = *header;
  impl_->payload_left = header->payload_bytes;
  if ((header->flags & wire::kChecksummed) != 0) impl_->checksum.Reset();
  return header;
}

Status ClientConnection::ReadBytes(std::span<std::byte> out, SteadyTime deadline) {
  if (out.size() > impl_->payload_left) {
    return WithName(Internal("reading " + std::to_string(out.size()) + " bytes where " +
                             std::to_string(impl_->payload_left) + " are left"));
  }
  if (out.empty()) return Status::Ok();
  Status status = impl_->ReadAll(out, deadline);
  if (!status.ok()) return WithName(status);
  impl_->payload_left -= out.size();
  return impl_->payload_left == 0 ? WithName(impl_->FinishPayload()) : Status::Ok();
}

Result<ClientConnection::OwnedFrame> ClientConnection::ReadFrame(SteadyTime deadline) {
  PS_ASSIGN_OR_RETURN(FrameHeader header, ReadHeader(deadline));
  OwnedFrame frame{header, {}};
  while (impl_->payload_left > 0) {
    std::size_t have = frame.payload.size();
    std::size_t next = std::min(impl_->payload_left, std::max(have, limits::kPayloadFirstBytes));
    frame.payload.resize(have + next);
    PS_RETURN_IF_ERROR(ReadBytes(std::span(frame.payload).subspan(have), deadline));
  }
  if ((header.flags & (wire::kLz4 | wire::kZstd)) != 0) {
    std::vector<std::byte> raw(header.raw_bytes);
    Status status = wire::Decompress(header, frame.payload, raw);
    if (!status.ok()) return WithName(status);
    frame.payload = std::move(raw);
  }
  return frame;
}

Result<std::string> ClientConnection::Control(const std::string& json, SteadyTime deadline) {
  FrameHeader request;
  request.type = MessageType::kControl;
  request.request_id = NextRequestId();
  Part part = AsPart(json);
  PS_RETURN_IF_ERROR(SendFrame(request, std::span(&part, 1), deadline));
  PS_ASSIGN_OR_RETURN(OwnedFrame reply, ReadFrame(deadline));
  if (reply.header.request_id != request.request_id) {
    return WithName(DataCorruption("reply to request " + std::to_string(reply.header.request_id) +
                                   " instead of " + std::to_string(request.request_id)));
  }
  if (reply.header.type == MessageType::kError) return wire::DecodeError(reply.payload);
  if (reply.header.type != MessageType::kControlReply) {
    return WithName(DataCorruption("reply of type " +
                                   std::to_string(static_cast<int>(reply.header.type)) +
                                   " to a control request"));
  }
  return std::string(reinterpret_cast<const char*>(reply.payload.data()), reply.payload.size());
}

Result<std::size_t> ClientConnection::WriteSome(std::span<const Part> parts) {
  impl_->gather.clear();
  for (Part part : parts) {
    if (part.empty()) continue;
    impl_->gather.push_back({const_cast<std::byte*>(part.data()), part.size()});
  }
  if (impl_->gather.empty()) return std::size_t{0};
  auto sent = impl_->stream->WriteSome(impl_->gather);
  if (!sent.ok()) return WithName(sent.status());
  impl_->bytes_sent += *sent;
  return sent;
}

Result<std::size_t> ClientConnection::ReadSome(std::span<std::byte> out) {
  if (std::size_t taken = impl_->TakeAhead(out); taken > 0) return taken;
  auto got = impl_->stream->ReadSome(out);
  if (!got.ok()) return WithName(got.status());
  impl_->bytes_received += *got;
  return got;
}

}  // namespace ps::net
