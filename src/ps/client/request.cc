#include "ps/client/request.h"

#include <algorithm>

#include "ps/base/limits.h"

namespace ps::client {
namespace {

// The larger of a section's share of the request frame and of its reply.
std::size_t RowBytes(std::uint32_t dim) { return sizeof(Key) + dim * sizeof(float); }
constexpr std::size_t kPaddingBytesMax = 8;
// Fewer come sooner with the frame that they belong to.
constexpr std::size_t kSharedRowsBytesMin = 16'384;

}  // namespace

std::span<const Section> ServerRequest::frame(std::size_t k) const {
  std::size_t first = k == 0 ? 0 : frame_ends[k - 1];
  return std::span(sections).subspan(first, frame_ends[k] - first);
}

void PlaceSharedRows(ServerRequest* request, std::size_t shared_bytes) {
  std::size_t used = 0;
  for (Section& section : request->sections) {
    wire::SectionHead& head = section.head;
    if (head.kind != wire::SectionKind::kRows) continue;
    head.flags &= static_cast<std::uint16_t>(~wire::kSharedRows);
    head.version = 0;
    const std::size_t bytes = std::size_t{head.count} * head.dim * sizeof(float);
    if (bytes < kSharedRowsBytesMin || shared_bytes - used < bytes) continue;
    head.flags |= wire::kSharedRows;
    head.version = used;
    const std::size_t end = used + bytes + wire::kSharedRowsAlignment - 1;
    used = std::min(end - end % wire::kSharedRowsAlignment, shared_bytes);
  }
}

RequestBuilder::RequestBuilder(ServerRequest* request, FrameLimits limits)
    : request_(request), limits_(limits) {}

bool RequestBuilder::Fits(std::size_t keys, std::size_t bytes) const {
  return frame_keys_ + keys <= limits_.keys_max && frame_bytes_ + bytes <= limits_.bytes_max &&
         frame_sections_ < limits::kSectionsPerFrameMax;
}

void RequestBuilder::CloseFrame() {
  if (frame_sections_ == 0) return;
  request_->frame_ends.push_back(request_->sections.size());
  frame_keys_ = frame_bytes_ = frame_sections_ = 0;
}

void RequestBuilder::AddRows(Section section, std::size_t first, std::size_t last) {
  const std::size_t row_bytes = RowBytes(section.head.dim);
  const std::size_t fixed_bytes = wire::kSectionHeadBytes + kPaddingBytesMax;
  while (first < last) {
    if (!Fits(1, fixed_bytes + row_bytes)) CloseFrame();
    std::size_t bytes_used = frame_bytes_ + fixed_bytes;
    std::size_t bytes_left = limits_.bytes_max > bytes_used ? limits_.bytes_max - bytes_used : 0;
    std::size_t count = std::min({last - first, limits_.keys_max - frame_keys_,
                                  std::max<std::size_t>(bytes_left / row_bytes, 1)});
    section.first = first;
    section.head.count = static_cast<std::uint32_t>(count);
    request_->sections.push_back(section);
    frame_keys_ += count;
    frame_bytes_ += fixed_bytes + count * row_bytes;
    ++frame_sections_;
    first += count;
  }
}

void RequestBuilder::AddChunk(const Section& section) {
  std::size_t bytes =
      wire::kSectionHeadBytes + kPaddingBytesMax + section.head.count * sizeof(float);
  if (!Fits(0, bytes)) CloseFrame();
  request_->sections.push_back(section);
  frame_bytes_ += bytes;
  ++frame_sections_;
}

void RequestBuilder::Finish() { CloseFrame(); }

}  // namespace ps::client
