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
  std::vector<std::byte> compressed;
  wire::PayingCompressor compressor;
  std::vector<std::span<const std::byte>> parts;
};

// Sends the frames of one request over one connection, a frame at a time, as far as the socket
// takes them. Keys, gradients and chunks leave straight from where they lie; only gradient rows
// that are strewn over the caller's array, or repeat, are gathered, one frame's worth. Those with a
// place in shared memory are written there, frame by frame.
class FrameWriter {
 public:
  // All must outlive the writer. Payloads over Unix sockets carry neither checksum nor compression.
  FrameWriter(const ServerRequest& request, std::uint64_t request_id,
              net::ClientConnection* connection, wire::Compression compression,
              WriteBuffers* buffers);

  bool is_done() const { return frame_ == request_.frame_count(); }
  // Writes until all is sent or the socket is full.
  Status WriteSome();

 private:
  void BuildFrame();
  void AppendControl();
  void AppendSection(const Section& section, std::size_t rows_at);
  void Append(const void* data, std::size_t bytes);
  void SealFrame();
  std::size_t FloatsToGather() const;
  std::size_t Remaining() const;

  const ServerRequest& request_;
  const std::uint64_t request_id_;
  net::ClientConnection* connection_;
  const wire::Compression compression_;
  WriteBuffers* buffers_;
  std::size_t frame_ = 0;
  bool is_built_ = false;
  std::size_t part_ = 0;  // first part that is not wholly sent
};

}  // namespace ps::client
