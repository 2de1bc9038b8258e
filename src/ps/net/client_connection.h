#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/limits.h"
#include "ps/base/status.h"
#include "ps/net/endpoint.h"
#include "ps/net/socket.h"
#include "ps/wire/codec.h"
#include "ps/wire/frame.h"
#include "ps/wire/handshake.h"

namespace ps::net {

struct ConnectOptions {
  Endpoint endpoint;
  Transport transport = Transport::kAuto;
  std::string secret;
  // CertificateFingerprint of whoever must answer over TCP, which then goes by TLS; empty: as it
  // is. Unix sockets always are.
  std::string tls_fingerprint;
  // Who must answer; incarnation 0 = any. Another one: ConnectionError saying that the server was
  // restarted and has lost its rows.
  wire::Identity expected;
  std::size_t payload_bytes_max = limits::kFramePayloadBytesMax;
  // Of what SendFrame sends over TCP, where a sample shrinks; never on Unix sockets.
  wire::Compression compression = wire::Compression::kNone;
  // As in ListenerOptions.
  int peer_silence_ms = kPeerSilenceMs;
  // Asked a few times a second by whatever waits; true: kClosed. May be empty.
  std::function<bool()> is_interrupted;
};

// One authenticated connection, used by the thread that calls: no thread of its own, no hand-off.
// The socket is non-blocking; the blocking calls wait in poll(2) until the deadline.
// Not thread-safe. After any error the connection is broken and must be dropped.
class ClientConnection {
 public:
  // Connects and shakes hands. kConnection, kAuthentication, kTimeout, kClosed when interrupted,
  // kConfiguration when one side speaks by TLS and the other does not; messages name the endpoint.
  static Result<std::unique_ptr<ClientConnection>> Connect(const ConnectOptions& options,
                                                           SteadyTime deadline);
  ~ClientConnection();  // closes
  ClientConnection(const ClientConnection&) = delete;

  int fd() const;
  bool over_unix() const;  // then payload checksums are left out
  // What the server sees as well (shared_memory.h); may be empty, is over TCP.
  std::span<std::byte> shared_memory() const;
  const wire::Identity& peer() const;
  const Endpoint& endpoint() const;
  std::uint64_t NextRequestId();
  std::uint64_t bytes_sent() const;
  std::uint64_t bytes_received() const;

  // --- blocking, until the deadline
  // Sends one frame: header (payload_bytes, raw_bytes, checksum and flags but kMore are filled in
  // here) and the payload gathered from `parts`, which is not copied. InvalidArgument, and nothing
  // sent, when it is larger than payload_bytes_max.
  Status SendFrame(wire::FrameHeader header, std::span<const std::span<const std::byte>> parts,
                   SteadyTime deadline);
  Result<wire::FrameHeader> ReadHeader(SteadyTime deadline);
  // Reads exactly out.size() bytes of the payload, as they were sent (compressed when the header
  // says so). The call that completes the payload also compares its checksum: DataCorruption.
  Status ReadBytes(std::span<std::byte> out, SteadyTime deadline);
  // Header and payload of the next frame, decompressed and checked. The buffer is aligned to 8.
  struct OwnedFrame {
    wire::FrameHeader header;
    std::vector<std::byte> payload;
  };
  Result<OwnedFrame> ReadFrame(SteadyTime deadline);
  // kControl with `json`, and the reply's JSON text; an error reply becomes its Status.
  Result<std::string> Control(const std::string& json, SteadyTime deadline);

  // --- non-blocking steps for a caller that polls several connections at once
  // Bytes moved, 0 = would block. Buffers as for writev/readv. The caller makes and checks headers
  // and payloads itself: CompleteHeader below, wire::DecodeHeader, wire::RunningChecksum.
  Result<std::size_t> WriteSome(std::span<const std::span<const std::byte>> parts);
  Result<std::size_t> ReadSome(std::span<std::byte> out);
  // There may be bytes that have come already, which poll(2) does not see. Calls of ReadSome until
  // it returns 0 leave none.
  bool has_buffered() const;
  // Fills in payload_bytes, raw_bytes, checksum and flags but kMore, for a payload sent as it is.
  void CompleteHeader(wire::FrameHeader* header,
                      std::span<const std::span<const std::byte>> parts) const;

 private:
  struct Impl;
  explicit ClientConnection(std::unique_ptr<Impl> impl);
  static Result<std::unique_ptr<ClientConnection>> ConnectOver(const ConnectOptions& options,
                                                               bool over_unix, SteadyTime deadline);
  Result<wire::Identity> ShakeHands(const ConnectOptions& options, SteadyTime deadline);
  Status WithName(const Status& status) const;  // the peer's name put before the message
  std::unique_ptr<Impl> impl_;
};

}  // namespace ps::net
