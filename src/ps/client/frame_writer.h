#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ps/base/status.h"
#include "ps/client/request.h"
#include "ps/net/client_connection.h"
#include "ps/wire/codec.h"

namespace ps::client {

// Memory of a writer, kept from call to call.
struct WriteBuffers {
  std::vector<std::byte> heads;
  std::vector<float> rows;  // gradients gathered for one frame
  std::vector<float> sums;  // those looked at before their frame's turn
  std::vector<std::byte> compressed;
  wire::PayingCompressor compressor;
  std::vector<std::span<const std::byte>> parts;
};

// Looks at the gradients of the frames that have not been checked. InvalidArgument when a value, or
// a sum of values of one key, is not finite.
Status CheckFrames(ServerRequest* request, WriteBuffers* buffers);

// Sends the frames of one request over one connection, a frame at a time, as far as the socket
// takes them. Keys, gradients and chunks leave straight from where they lie; only gradient rows
// that are strewn over the caller's array, or repeat, are gathered, one frame's worth. Those with a
// place in shared memory are written there, frame by frame.
class FrameWriter {
 public:
  // All must outlive the writer. Payloads over Unix sockets carry neither checksum nor compression.
  FrameWriter(ServerRequest* request, std::uint64_t request_id, net::ClientConnection* connection,
              wire::Compression compression, WriteBuffers* buffers);

  bool is_done() const { return frame_ == request_.frame_count(); }
  // The last frame is built, and with it all of the request checked.
  bool is_at_last() const { return is_built_ && frame_ + 1 == request_.frame_count(); }
  // Writes until all is sent or the socket is full; not the last frame unless `may_finish`.
  // InvalidArgument as CheckFrames, before the frame that it is about is sent.
  Status WriteSome(bool may_finish);

 private:
  Status BuildFrame();
  void AppendControl();
  // False when a gradient is not finite.
  bool AppendSection(const Section& section, std::size_t rows_at);
  void Append(const void* data, std::size_t bytes);
  void SealFrame();
  std::size_t FloatsToGather() const;
  std::size_t Remaining() const;

  ServerRequest& request_;
  const std::uint64_t request_id_;
  net::ClientConnection* connection_;
  const wire::Compression compression_;
  WriteBuffers* buffers_;
  std::size_t frame_ = 0;
  bool is_built_ = false;
  std::size_t part_ = 0;  // first part that is not wholly sent
};

}  // namespace ps::client
