#pragma once

#include <asio/io_context.hpp>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ps/base/limits.h"
#include "ps/base/status.h"
#include "ps/net/certificate.h"
#include "ps/net/socket.h"
#include "ps/wire/codec.h"
#include "ps/wire/frame.h"
#include "ps/wire/handshake.h"

namespace ps::net {

// Bytes of one payload, aligned to 8, uninitialised at allocation; owned, movable.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  std::byte* data();
  const std::byte* data() const;
  std::size_t size() const;
  std::span<std::byte> span();
  std::span<const std::byte> span() const;

 private:
  std::unique_ptr<std::uint64_t[]> words_;
  std::size_t bytes_ = 0;
};

struct Frame {
  wire::FrameHeader header;
  Buffer payload;  // decompressed, checksum verified; the header then says so
};

// The accepting side of one authenticated connection. It belongs to one io_context (one thread):
// frames arrive there, in order. Held by shared_ptr.
class ServerConnection : public std::enable_shared_from_this<ServerConnection> {
 public:
  virtual ~ServerConnection() = default;
  // Sends a frame, as far as the socket takes it, from the calling thread, and queues the rest;
  // thread-safe. Dropped when the connection has closed. Payload sizes and checksum are filled in
  // here; compressed when `compression` pays and the peer is not on a Unix socket. `until_sent`:
  // let go when the last byte has been written or the connection has closed. A message is answered
  // by exactly one frame without kMore.
  virtual void Send(wire::FrameHeader header, Buffer payload, std::shared_ptr<void> until_sent) = 0;
  void Send(wire::FrameHeader header, Buffer payload) { Send(header, std::move(payload), nullptr); }
  virtual void SendError(std::uint64_t request_id, const Status& status) = 0;
  virtual void Close() = 0;  // thread-safe
  virtual asio::io_context& context() = 0;
  // Index of that context among the listener's contexts: the shard thread that serves this one.
  virtual int context_index() const = 0;
  virtual std::uint64_t id() const = 0;
  // "address:port", or "unix"; for messages.
  virtual const std::string& peer() const = 0;
  // What the peer sees as well; empty over TCP, and where there is none to spare. Its peer may
  // change it at any time. Lives as long as this object.
  virtual std::span<std::byte> shared_memory() const = 0;
};
using ConnectionPtr = std::shared_ptr<ServerConnection>;

// What the owner of a listener does with frames. Called on the connection's thread.
class FrameHandler {
 public:
  virtual ~FrameHandler() = default;
  virtual void OnFrame(const ConnectionPtr& connection, Frame frame) = 0;
  // Once for each connection that delivered frames or could have, after its last frame; never from
  // within Send, Close or OnFrame. kDataCorruption: closed for bytes that break the protocol.
  virtual void OnClose(const ConnectionPtr& connection, const Status& why) = 0;
  // A peer ("address:port", or "unix") was turned away in its handshake, or left amid it; not for
  // one that left before it said hello. On the first context's thread.
  virtual void OnRefused(const std::string& /*peer*/, const Status& /*why*/) {}
};

struct ListenerOptions {
  std::string host;   // bind address; empty = all interfaces
  int port_base = 0;  // 0 = ephemeral; a taken port moves on to the next free one
  int ports_tried_max = 1'000;
  std::string unix_path;  // empty = no Unix socket
  std::string secret;
  // TCP connections speak by TLS and are shown this certificate; null: as they are. Unix sockets
  // never leave the host and are always as they are.
  std::shared_ptr<const TlsIdentity> tls;
  wire::Identity identity;
  std::size_t payload_bytes_max = limits::kFramePayloadBytesMax;
  std::size_t connections_max = limits::kConnectionsPerServerMax;
  // Replies waiting on one connection; beyond: not read on.
  std::size_t unsent_bytes_max = limits::kUnsentBytesPerConnectionMax;
  // Shared with the peer of each Unix socket, kSharedMemoryBytesTotal at most with all; 0 = none.
  std::size_t shared_memory_bytes = limits::kSharedMemoryBytes;
  // Requests of one connection without an answer; beyond: not read on.
  std::int64_t unanswered_max = limits::kRequestsPerConnectionMax;
  // A peer that is amid a request, or takes no replies, and moves no byte for so long is closed.
  int stall_timeout_ms = limits::kStallTimeoutMs;
  // A host that is not heard at all, not even in acknowledgement, is given up after so long.
  int peer_silence_ms = kPeerSilenceMs;
  int handshake_timeout_ms = limits::kHandshakeTimeoutMs;
  // Connections that have not proved the secret yet. Beyond it the oldest of them is closed, so
  // that strangers neither take the places of authenticated ones nor shut the door.
  std::size_t handshakes_max = 256;
  wire::Compression compression = wire::Compression::kNone;
};

struct ListenerStats {
  std::uint64_t connections_open = 0;
  std::uint64_t connections_total = 0;
  std::uint64_t authentication_failures_total = 0;  // did not get through the handshake
  std::uint64_t bad_frames_total = 0;
  std::uint64_t stalled_total = 0;  // closed by stall_timeout_ms
  std::uint64_t bytes_received_total = 0;
  std::uint64_t bytes_sent_total = 0;
};

// Accepts TCP (TCP_NODELAY) and Unix connections, shakes hands under a time limit, and deals the
// connections out over the contexts in turn. A bad frame closes that connection, counted, and
// nothing else. The contexts must be run by their threads (one each) and outlive the listener.
class Listener {
 public:
  // Closes everything, removes the socket file; contexts stopped or idle. Waits until the contexts
  // that run have closed their connections (2 s at most); those of stopped contexts are closed
  // without OnClose. The handler is not called afterwards.
  virtual ~Listener() = default;
  static Result<std::unique_ptr<Listener>> Start(ListenerOptions options,
                                                 std::vector<asio::io_context*> contexts,
                                                 FrameHandler* handler);
  virtual int port() const = 0;
  virtual const std::string& unix_path() const = 0;
  virtual ListenerStats Stats() const = 0;
  virtual void Stop() = 0;  // no new connections, closes all; thread-safe
};

}  // namespace ps::net
