#include "ps/client/frame_writer.h"

#include <algorithm>
#include <array>

#include "ps/base/stream_row.h"
#include "ps/client/finite.h"
#include "ps/wire/frame.h"

namespace ps::client {
namespace {

constexpr std::size_t kPartsPerWriteMax = 64;
constexpr std::array<std::byte, 8> kPadding{};

bool IsShared(const Section& section) {
  return section.head.kind == wire::SectionKind::kRows &&
         (section.head.flags & wire::kSharedRows) != 0;
}

bool HasGradients(const Section& section) {
  return section.values != nullptr && section.batch != nullptr;
}

// Whether its gradients do not lie in the caller's array as they are sent.
bool IsStrewn(const Section& section) {
  std::size_t last = section.first + section.head.count;
  return !section.batch->is_run(section.first, last - 1) ||
         !section.batch->RepeatsOf(section.first, last).empty();
}

bool NeedsGather(const Section& section) {
  return HasGradients(section) && !IsShared(section) && IsStrewn(section);
}

std::size_t RowFloats(const Section& section) {
  return std::size_t{section.head.count} * section.head.dim;
}

const float* FirstRow(const Section& section) {
  return section.values + section.batch->source(section.first) * section.head.dim;
}

bool GatherSums(const Section& section, float* out, bool for_others) {
  return section.batch->GatherSums(section.values, section.head.dim, section.first,
                                   section.first + section.head.count, out, for_others);
}

bool HasFiniteGradients(const Section& section, std::vector<float>* scratch) {
  if (!HasGradients(section)) return true;
  if (!IsStrewn(section)) return !FindNonFinite({FirstRow(section), RowFloats(section)});
  scratch->resize(std::max(scratch->size(), RowFloats(section)));
  return GatherSums(section, scratch->data(), /*for_others=*/false);
}

Status NotFinite() {
  return InvalidArgument("a gradient, or a sum of gradients of one key, is not finite");
}

}  // namespace

Status CheckFrames(ServerRequest* request, WriteBuffers* buffers) {
  while (!request->is_checked()) {
    for (const Section& section : request->frame(request->frames_checked)) {
      if (!HasFiniteGradients(section, &buffers->sums)) return NotFinite();
    }
    ++request->frames_checked;
  }
  return Status::Ok();
}

FrameWriter::FrameWriter(ServerRequest* request, std::uint64_t request_id,
                         net::ClientConnection* connection, wire::Compression compression,
                         WriteBuffers* buffers)
    : request_(*request),
      request_id_(request_id),
      connection_(connection),
      compression_(connection->over_unix() ? wire::Compression::kNone : compression),
      buffers_(buffers) {}

Status FrameWriter::WriteSome(bool may_finish) {
  while (!is_done()) {
    if (!is_built_) PS_RETURN_IF_ERROR(BuildFrame());
    if (is_at_last() && !may_finish) return Status::Ok();
    auto& parts = buffers_->parts;
    while (part_ < parts.size()) {
      auto batch =
          std::span(parts).subspan(part_, std::min(parts.size() - part_, kPartsPerWriteMax));
      PS_ASSIGN_OR_RETURN(std::size_t sent, connection_->WriteSome(batch));
      if (sent == 0) return Status::Ok();
      while (part_ < parts.size() && sent >= parts[part_].size()) sent -= parts[part_++].size();
      if (part_ < parts.size()) parts[part_] = parts[part_].subspan(sent);
    }
    is_built_ = false;
    ++frame_;
  }
  return Status::Ok();
}

Status FrameWriter::BuildFrame() {
  std::size_t sections =
      request_.type == wire::MessageType::kControl ? 0 : request_.frame(frame_).size();
  buffers_->heads.resize(wire::kFrameHeaderBytes + sections * wire::kSectionHeadBytes);
  buffers_->parts.clear();
  buffers_->parts.emplace_back(buffers_->heads.data(), wire::kFrameHeaderBytes);
  if (request_.type == wire::MessageType::kControl) {
    Append(request_.control.data(), request_.control.size());
  } else {
    buffers_->rows.resize(std::max(buffers_->rows.size(), FloatsToGather()));
    std::size_t rows_at = 0;
    std::byte* head = buffers_->heads.data() + wire::kFrameHeaderBytes;
    for (const Section& section : request_.frame(frame_)) {
      wire::EncodeSectionHead(section.head, head);
      Append(head, wire::kSectionHeadBytes);
      head += wire::kSectionHeadBytes;
      if (!AppendSection(section, rows_at)) return NotFinite();
      if (NeedsGather(section)) rows_at += RowFloats(section);
    }
  }
  SealFrame();
  request_.frames_checked = std::max(request_.frames_checked, frame_ + 1);
  is_built_ = true;
  part_ = 0;
  return Status::Ok();
}

std::size_t FrameWriter::FloatsToGather() const {
  std::size_t floats = 0;
  for (const Section& section : request_.frame(frame_)) {
    if (NeedsGather(section)) floats += RowFloats(section);
  }
  return floats;
}

bool FrameWriter::AppendSection(const Section& section, std::size_t rows_at) {
  const wire::SectionHead& head = section.head;
  std::size_t floats = 0;
  bool is_finite = true;
  if (section.batch != nullptr) {
    Append(section.batch->keys().data() + section.first, head.count * sizeof(Key));
    if (section.values == nullptr) return true;
    if (IsShared(section)) {
      std::byte* rows = connection_->shared_memory().data() + head.version;
      is_finite = GatherSums(section, reinterpret_cast<float*>(rows), /*for_others=*/true);
      StreamFence();
      return is_finite;
    }
    floats = RowFloats(section);
    if (NeedsGather(section)) {
      float* rows = buffers_->rows.data() + rows_at;
      is_finite = GatherSums(section, rows, /*for_others=*/false);
      Append(rows, floats * sizeof(float));
    } else {
      is_finite = !FindNonFinite({FirstRow(section), floats});
      Append(FirstRow(section), floats * sizeof(float));
    }
  } else if (section.values != nullptr) {
    floats = head.count;
    Append(section.values, floats * sizeof(float));
  }
  if (floats % 2 != 0) Append(kPadding.data(), sizeof(float));
  return is_finite;
}

// Neighbours in memory become one part.
void FrameWriter::Append(const void* data, std::size_t bytes) {
  if (bytes == 0) return;
  const auto* begin = static_cast<const std::byte*>(data);
  auto& last = buffers_->parts.back();
  if (last.data() + last.size() == begin && begin != kPadding.data()) {
    last = {last.data(), last.size() + bytes};
  } else {
    buffers_->parts.emplace_back(begin, bytes);
  }
}

void FrameWriter::SealFrame() {
  wire::FrameHeader header;
  header.type = request_.type;
  header.request_id = request_id_;
  header.stream = request_.stream;
  header.sequence = request_.sequence;
  if (frame_ + 1 < request_.frame_count()) header.flags |= wire::kMore;

  // The first part starts with the header, which is no payload.
  auto& parts = buffers_->parts;
  auto first = parts.front();
  parts.front() = first.subspan(wire::kFrameHeaderBytes);
  std::size_t raw_bytes = 0;
  for (const auto& part : parts) raw_bytes += part.size();
  header.raw_bytes = static_cast<std::uint32_t>(raw_bytes);

  if (buffers_->compressor.TryCompress(compression_, parts, &buffers_->compressed)) {
    header.flags |= wire::CompressionFlag(compression_);
    parts = {{}, buffers_->compressed};
    first = first.subspan(0, wire::kFrameHeaderBytes);
  }
  header.payload_bytes = 0;
  for (const auto& part : parts) header.payload_bytes += part.size();
  if (!connection_->over_unix()) {
    wire::RunningChecksum checksum;
    for (const auto& part : parts) checksum.Add(part);
    header.payload_checksum = checksum.value();
    header.flags |= wire::kChecksummed;
  }
  parts.front() = first;
  wire::EncodeHeader(header, std::span<std::byte, wire::kFrameHeaderBytes>(
                                 buffers_->heads.data(), wire::kFrameHeaderBytes));
}

}  // namespace ps::client
