#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ps/base/status.h"
#include "ps/client/reply_sink.h"
#include "ps/client/request.h"
#include "ps/net/client_connection.h"
#include "ps/wire/frame.h"

namespace ps::client {

// Memory of a reader, kept from call to call.
struct ReadBuffers {
  std::vector<std::byte> staged;  // bytes read ahead: headers and small bodies
  std::vector<std::byte> payload;
  std::vector<std::byte> raw;
  ReplySink sink;
  wire::RunningChecksum checksum;
};

// Reads the reply to one request from one connection, as far as bytes have come. Fills the caller's
// memory through the request's sections; sets control_reply, or refusal for an error reply.
class ReplyReader {
 public:
  // All must outlive the reader. `payload_bytes_max` bounds a reply frame.
  ReplyReader(ServerRequest* request, std::uint64_t request_id, net::ClientConnection* connection,
              std::size_t payload_bytes_max, ReadBuffers* buffers);

  bool is_done() const { return is_done_; }
  // Reads until the reply is complete or the socket is empty. An error means that the connection
  // must be dropped; a refusal by the server is not one.
  Status ReadSome();

 private:
  enum class State { kHeader, kPart, kPayload, kStale };

  Status ReadHeader(bool* would_block);
  Status ReadPart(bool* would_block);
  Status ReadPayload(bool* would_block);
  Status Stage(bool* would_block);
  std::size_t TakeStaged(std::span<std::byte> out);
  Status BeginPayload();
  Status EndPart();
  Status EndPayload();
  Status FillFromRaw(std::span<const std::byte> raw);
  Status CountPart();

  ServerRequest* request_;
  const std::uint64_t request_id_;
  net::ClientConnection* connection_;
  const std::size_t payload_bytes_max_;
  ReadBuffers* buffers_;
  State state_ = State::kHeader;
  wire::FrameHeader header_;
  std::size_t staged_begin_ = 0;
  std::size_t staged_end_ = 0;
  std::size_t payload_left_ = 0;
  std::vector<bool> parts_seen_;
  std::size_t parts_left_ = 0;
  bool is_done_ = false;
};

}  // namespace ps::client
