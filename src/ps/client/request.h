#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "ps/base/status.h"
#include "ps/client/key_batch.h"
#include "ps/wire/messages.h"

namespace ps::client {

// One section of a request frame, and where its part of the reply goes. Points into the call's key
// batches and the caller's memory; owns nothing.
struct Section {
  wire::SectionHead head;
  // kRows: keys [first, first + head.count) of the batch.
  const KeyBatch* batch = nullptr;
  std::size_t first = 0;
  const float* values = nullptr;  // push: the caller's gradient rows (kRows), or the chunk's floats
  float* out = nullptr;           // pull: the caller's rows (kRows), or the chunk's floats
  // Pull of a chunk: its version after the reply, and whether `out` was written.
  std::uint64_t* version = nullptr;
  bool* is_changed = nullptr;
};

// What one server is asked in one call, and how it went. Kept over attempts: a request that is not
// done is repeated as it is, under the same stream and sequence.
struct ServerRequest {
  ServerId server = 0;
  // Push: whose chunks these are (sharding/copies.h), when `server` stands in for a lost one. A
  // server keeps the numbers of each home apart, so that each home gets a request of its own.
  std::optional<ServerId> home;
  wire::MessageType type = wire::MessageType::kPull;
  std::uint64_t stream = 0;
  std::uint64_t sequence = 0;
  std::vector<Section> sections;
  std::vector<std::size_t> frame_ends;  // frame k: sections [frame_ends[k-1], frame_ends[k])
  std::string control;                  // kControl: the request's JSON, then one frame

  // The gradients of so many frames are known to be finite. The last frame of a push leaves when
  // those of all frames of all its servers are: until then none of them takes any notice.
  std::size_t frames_checked = 0;
  bool is_checked() const {
    return type != wire::MessageType::kPush || frames_checked == frame_count();
  }

  bool is_done = false;
  std::string control_reply;
  Status refusal;  // done, and the server refused: its error reply

  std::size_t frame_count() const {
    return type == wire::MessageType::kControl ? 1 : frame_ends.size();
  }
  std::span<const Section> frame(std::size_t k) const;
};

// Gives the rows of large sections places in memory shared with the server, as long as there are
// some of its `shared_bytes` left; all others go through the socket. Before each attempt: another
// connection may have none.
void PlaceSharedRows(ServerRequest* request, std::size_t shared_bytes);

// Frames are cut at about this size although they may be larger: a server works on one frame while
// the next is on the wire, in memory that is still in a core's cache.
inline constexpr std::size_t kFrameBytesAimed = 262'144;

// Bounds of one frame. A single key, or a chunk, may be larger than bytes_max: it travels alone.
struct FrameLimits {
  std::size_t keys_max = 10'000;
  std::size_t bytes_max = 104'857'600;  // of the payload of the request and of its reply
};

// Cuts the work of one server into frames.
class RequestBuilder {
 public:
  RequestBuilder(ServerRequest* request, FrameLimits limits);
  // Keys [first, last) of the batch; `section` says the rest. Splits where a frame is full.
  void AddRows(Section section, std::size_t first, std::size_t last);
  void AddChunk(const Section& section);
  void Finish();

 private:
  bool Fits(std::size_t keys, std::size_t bytes) const;
  void CloseFrame();

  ServerRequest* request_;
  FrameLimits limits_;
  std::size_t frame_keys_ = 0;
  std::size_t frame_bytes_ = 0;
  std::size_t frame_sections_ = 0;
};

}  // namespace ps::client
