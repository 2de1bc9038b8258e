#include "ps/wire/messages.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "ps/wire/bytes.h"

namespace ps::wire {
namespace {

constexpr std::size_t kAlignment = 8;
constexpr std::size_t kErrorHeadBytes = 8;
constexpr std::size_t kErrorMessageBytesMax = 16'384;
constexpr int kStatusCodeMax = static_cast<int>(StatusCode::kInternal);

// Arrays of one body: 8 bytes a key, 4 bytes a float.
struct BodyShape {
  std::uint64_t keys = 0;
  std::uint64_t floats = 0;
};

// A product of two u32 fits in u64; capped so that its bytes do as well.
std::uint64_t FloatsOf(const SectionHead& head) {
  std::uint64_t product = std::uint64_t{head.count} * head.dim;
  return std::min(product, std::uint64_t{1} << 61);
}

BodyShape ShapeOf(MessageType type, const SectionHead& head) {
  bool rows = head.kind == SectionKind::kRows;
  std::uint64_t floats = !rows ? head.count : (head.flags & kSharedRows) != 0 ? 0 : FloatsOf(head);
  switch (type) {
    case MessageType::kPull:
      return {rows ? head.count : 0u, 0};
    case MessageType::kPullReply:
      return {0, floats};
    case MessageType::kPush:
      return {rows ? head.count : 0u, floats};
    case MessageType::kReplicate:
      return {0, head.count};
    default:
      return {};
  }
}

std::size_t PaddedBytes(const BodyShape& shape) {
  std::uint64_t bytes = shape.keys * sizeof(Key) + shape.floats * sizeof(float);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

Status Bad(const SectionHead& head, std::size_t number, const std::string& what) {
  return DataCorruption("section " + std::to_string(number) + " (kind " +
                        std::to_string(static_cast<int>(head.kind)) + ", id " +
                        std::to_string(head.id) + "): " + what);
}

Status CheckRowsHead(const SectionHead& head, std::size_t number) {
  if ((head.flags & ~(kCreateMissing | kSharedRows)) != 0) {
    return Bad(head, number, "unknown flags " + std::to_string(head.flags));
  }
  if ((head.flags & kSharedRows) != 0 && head.version % kSharedRowsAlignment != 0) {
    return Bad(head, number, "rows at byte " + std::to_string(head.version) + " of shared memory");
  }
  if (head.dim == 0 || head.dim > limits::kEmbeddingDimMax) {
    return Bad(head, number,
               "dim " + std::to_string(head.dim) + ", allowed are 1 to " +
                   std::to_string(limits::kEmbeddingDimMax));
  }
  return Status::Ok();
}

Status CheckChunkHead(MessageType type, const SectionHead& head, std::size_t number) {
  if (head.kind == SectionKind::kChunkAssign && type != MessageType::kPush) {
    return Bad(head, number, "only a push assigns");
  }
  std::uint16_t known = head.kind == SectionKind::kChunkAssign ? kOnlyIfAbsent
                        : type == MessageType::kPull           ? kIfPresent
                                                               : 0;
  if ((head.flags & ~known) != 0 || head.dim != 0) {
    return Bad(head, number, "unknown flags, or a dim, of a chunk");
  }
  if (head.count > limits::kTensorChunkFloats) {
    return Bad(head, number,
               std::to_string(head.count) + " floats in a chunk, at most " +
                   std::to_string(limits::kTensorChunkFloats));
  }
  return Status::Ok();
}

Status CheckReplicaHead(const SectionHead& head, std::size_t number) {
  const std::size_t floats_max = head.kind == SectionKind::kReplicaOf ? 0 : kChunkStateFloatsMax;
  if (head.flags != 0 || head.dim != 0) return Bad(head, number, "flags, or a dim, of a copy");
  if (head.count <= floats_max) return Status::Ok();
  return Bad(head, number,
             std::to_string(head.count) + " floats, at most " + std::to_string(floats_max));
}

Status CheckHead(MessageType type, const SectionHead& head, std::size_t number) {
  if (!std::isfinite(head.rate_scale) || head.rate_scale < 0.0f) {
    return Bad(head, number, "rate_scale is not a finite number >= 0");
  }
  const bool is_of_copy =
      head.kind == SectionKind::kChunkState || head.kind == SectionKind::kReplicaOf;
  if (is_of_copy != (type == MessageType::kReplicate)) {
    return Bad(head, number, "does not belong in this type of message");
  }
  switch (head.kind) {
    case SectionKind::kRows:
      return CheckRowsHead(head, number);
    case SectionKind::kChunk:
    case SectionKind::kChunkAssign:
      return CheckChunkHead(type, head, number);
    case SectionKind::kChunkState:
    case SectionKind::kReplicaOf:
      return CheckReplicaHead(head, number);
  }
  return Bad(head, number, "unknown kind");
}

bool HasSections(MessageType type) {
  return type == MessageType::kPull || type == MessageType::kPullReply ||
         type == MessageType::kPush || type == MessageType::kReplicate;
}

}  // namespace

std::size_t SectionBodyBytes(MessageType type, const SectionHead& head) {
  return PaddedBytes(ShapeOf(type, head));
}

void EncodeSectionHead(const SectionHead& head, std::byte* out) {
  Put(out, 0, static_cast<std::uint16_t>(head.kind));
  Put(out, 2, head.flags);
  Put(out, 4, head.id);
  Put(out, 8, head.count);
  Put(out, 12, head.dim);
  Put(out, 16, head.chunk);
  Put(out, 20, head.rate_scale);
  Put(out, 24, head.version);
}

SectionHead DecodeSectionHead(const std::byte* in) {
  SectionHead head;
  head.kind = static_cast<SectionKind>(Get<std::uint16_t>(in, 0));
  head.flags = Get<std::uint16_t>(in, 2);
  head.id = Get<std::uint32_t>(in, 4);
  head.count = Get<std::uint32_t>(in, 8);
  head.dim = Get<std::uint32_t>(in, 12);
  head.chunk = Get<std::uint32_t>(in, 16);
  head.rate_scale = Get<float>(in, 20);
  head.version = Get<std::uint64_t>(in, 24);
  return head;
}

Result<std::vector<SectionView>> DecodeSections(MessageType type,
                                                std::span<const std::byte> payload) {
  if (!HasSections(type)) {
    return Internal("message type " + std::to_string(static_cast<int>(type)) + " has no sections");
  }
  if (reinterpret_cast<std::uintptr_t>(payload.data()) % kAlignment != 0) {
    return Internal("payload is not aligned to 8 bytes");
  }
  std::vector<SectionView> sections;
  while (!payload.empty()) {
    if (sections.size() == limits::kSectionsPerFrameMax) {
      return DataCorruption("more than " + std::to_string(limits::kSectionsPerFrameMax) +
                            " sections in one frame");
    }
    if (payload.size() < kSectionHeadBytes) {
      return DataCorruption("section " + std::to_string(sections.size()) + ": head cut short at " +
                            std::to_string(payload.size()) + " bytes");
    }
    SectionView view{DecodeSectionHead(payload.data()), {}, {}};
    PS_RETURN_IF_ERROR(CheckHead(type, view.head, sections.size()));
    payload = payload.subspan(kSectionHeadBytes);

    BodyShape shape = ShapeOf(type, view.head);
    std::size_t body_bytes = PaddedBytes(shape);
    if (body_bytes > payload.size()) {
      return Bad(view.head, sections.size(),
                 "body of " + std::to_string(body_bytes) + " bytes, but only " +
                     std::to_string(payload.size()) + " are there");
    }
    const std::byte* body = payload.data();
    view.keys = {reinterpret_cast<const Key*>(body), shape.keys};
    view.floats = {reinterpret_cast<const float*>(body + shape.keys * sizeof(Key)), shape.floats};
    sections.push_back(view);
    payload = payload.subspan(body_bytes);
  }
  return sections;
}

std::vector<std::byte> EncodeError(const Status& status) {
  std::size_t message_bytes = std::min(status.message().size(), kErrorMessageBytesMax);
  std::vector<std::byte> payload(kErrorHeadBytes + message_bytes);
  Put(payload.data(), 0, static_cast<std::uint32_t>(status.code()));
  Put(payload.data(), 4, std::uint32_t{0});
  std::memcpy(payload.data() + kErrorHeadBytes, status.message().data(), message_bytes);
  return payload;
}

Status DecodeError(std::span<const std::byte> payload) {
  if (payload.size() < kErrorHeadBytes) {
    return DataCorruption("error reply cut short at " + std::to_string(payload.size()) + " bytes");
  }
  auto code = Get<std::uint32_t>(payload.data(), 0);
  if (code == 0 || code > static_cast<std::uint32_t>(kStatusCodeMax)) {
    return DataCorruption("error reply with unknown code " + std::to_string(code));
  }
  payload = payload.subspan(kErrorHeadBytes);
  std::size_t message_bytes = std::min(payload.size(), kErrorMessageBytesMax);
  return Status(static_cast<StatusCode>(code),
                std::string(reinterpret_cast<const char*>(payload.data()), message_bytes));
}

}  // namespace ps::wire
