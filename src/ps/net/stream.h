#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "ps/base/status.h"
#include "ps/net/socket.h"

namespace ps::net {

// The bytes of one connection, over a connected non-blocking socket: as they are, or by TLS
// (tls_stream.h). The descriptor stays its owner's and must outlive the stream. One thread may
// write while another reads.
class Stream {
 public:
  enum class Handshake { kDone, kWantsRead, kWantsWrite };

  virtual ~Stream() = default;
  // First of all, again whenever the socket is ready as it said, until kDone. kAuthentication: the
  // peer is not the one meant; kConfiguration: it speaks without TLS; kConnection.
  virtual Result<Handshake> ShakeHands() = 0;
  // Bytes taken, 0 = would block. After 0 the caller comes again with the same bytes; more may
  // follow them. The peer's end of stream is a ConnectionError; bytes that are not what the peer
  // sent are DataCorruption.
  virtual Result<std::size_t> WriteSome(std::span<const iovec> parts) = 0;
  virtual Result<std::size_t> ReadSome(std::span<std::byte> out) = 0;
  // There may be bytes for ReadSome that poll(2) does not see.
  virtual bool may_have_more() const = 0;
  // What the socket carries is what ReadSome returns: it may be read by other means as well.
  virtual bool is_plain() const = 0;
};

std::unique_ptr<Stream> MakePlainStream(int fd);

}  // namespace ps::net
