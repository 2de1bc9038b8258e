#pragma once

#include <functional>
#include <memory>
#include <span>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/client/frame_writer.h"
#include "ps/client/reply_reader.h"
#include "ps/client/request.h"
#include "ps/net/client_connection.h"

namespace ps::client {

// One server's end of a channel: its connection, and memory that is kept from call to call.
struct Link {
  std::unique_ptr<net::ClientConnection> connection;
  WriteBuffers write_buffers;
  ReadBuffers read_buffers;
};

// One request on its way over one link, and how that ended.
struct Exchange {
  ServerRequest* request = nullptr;
  Link* link = nullptr;
  // Not ok: the connection is broken and must be dropped; the request is not done. kConnection,
  // kTimeout, kDataCorruption, kClosed when interrupted, or kInvalidArgument: gradients, of this
  // request or another, are not finite, and no push has been sent to its end.
  Status failure;
};

struct FanOutOptions {
  SteadyTime deadline;
  std::size_t reply_bytes_max = limits::kFramePayloadBytesMax;
  wire::Compression compression = wire::Compression::kNone;
  // Asked a few times a second while waiting; true ends all exchanges. May be empty.
  std::function<bool()> is_interrupted;
};

// Sends all requests and reads all replies in one poll(2) loop in the calling thread, each as fast
// as its server goes. A server replies only when the whole request has arrived, so that writing and
// reading never wait for each other. The last frame of every push waits until the gradients of all
// requests are known to be finite; what a server has of a request is forgotten with the connection.
// Requests end with is_done, or with their exchange's failure; one server's failure does not
// disturb the others.
void FanOut(std::span<Exchange> exchanges, const FanOutOptions& options);

}  // namespace ps::client
