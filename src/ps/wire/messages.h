#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ps/base/status.h"
#include "ps/base/types.h"
#include "ps/wire/frame.h"

namespace ps::wire {

// Payload of kPull, kPullReply, kPush and kReplicate: sections one after the other, each a head of
// 32 bytes and a body padded to 8 bytes, so every array is aligned to 8 when the payload is.
//
//   section            body in kPull        in kPullReply           in kPush
//   kRows              u64 keys[count]      f32 rows[count*dim]     u64 keys[count], f32
//   grads[count*dim] kChunk             -                    f32 values[count]       f32
//   grads[count] kChunkAssign       -                    -                       f32 values[count]
//
// kRows: id = table, dim = its dim; bit 0 of flags = create missing rows. The reply's sections
// stand in the order of the request frame's sections, reply part k answers request frame k. kChunk:
// id = tensor, chunk = number; version in kPull = what the client has (0 = nothing); in kPullReply
// = the server's, with count 0 when it is what the client has; with bit 2 of flags a chunk that has
// no values yet is answered with count 0 and version 0. kChunkAssign: with bit 1 of flags
// only where the chunk does not exist yet. kPush: rate_scale multiplies the learning rates; all
// sections of a push carry the same.
//
// kReplicate begins with one kReplicaOf, without a body: id = the server that sends it, chunk = the
// home of the chunks (sharding/copies.h), version = of the cluster definition that the sender
// holds. Then a kChunkState for each chunk: version = the chunk's, body f32 values and optimizer
// state[count].
enum class SectionKind : std::uint16_t {
  kRows = 1,
  kChunk = 2,
  kChunkAssign = 3,
  kChunkState = 4,
  kReplicaOf = 5,
};

inline constexpr std::uint16_t kCreateMissing = 1;  // kRows
inline constexpr std::uint16_t kOnlyIfAbsent = 2;   // kChunkAssign: a chunk that is there stays
// kRows: the rows or gradients are no part of the body: they lie in the memory shared with the peer
// from byte `version` on, a multiple of kSharedRowsAlignment. In kPull: the reply's are to.
inline constexpr std::uint16_t kSharedRows = 8;
inline constexpr std::size_t kSharedRowsAlignment = 64;
inline constexpr std::uint16_t kIfPresent = 4;  // kChunk in kPull: one without values is no error
// Floats of a chunk with its optimizer state: at most three per value, and a few.
inline constexpr std::size_t kChunkStateFloatsMax = 4 * limits::kTensorChunkFloats + 1'024;

struct SectionHead {
  SectionKind kind = SectionKind::kRows;
  std::uint16_t flags = 0;
  std::uint32_t id = 0;
  std::uint32_t count = 0;  // keys, or floats
  std::uint32_t dim = 0;    // kRows; 0 otherwise
  std::uint32_t chunk = 0;
  float rate_scale = 1.0f;
  std::uint64_t version = 0;
};
inline constexpr std::size_t kSectionHeadBytes = 32;

// A section inside a payload; spans point into it.
struct SectionView {
  SectionHead head;
  std::span<const Key> keys;
  std::span<const float> floats;
};

std::size_t SectionBodyBytes(MessageType type, const SectionHead& head);  // padded
void EncodeSectionHead(const SectionHead& head, std::byte* out);          // kSectionHeadBytes
// Reads kSectionHeadBytes and believes nothing: for a reader that compares with what it asked for.
SectionHead DecodeSectionHead(const std::byte* in);

// Walks a payload of the given type. `payload` must be aligned to 8. Every count is checked against
// what is there before it is used: hostile bytes give DataCorruption, never a read beyond the end.
Result<std::vector<SectionView>> DecodeSections(MessageType type,
                                                std::span<const std::byte> payload);

// kError: u32 code, u32 zero, then the message in UTF-8.
std::vector<std::byte> EncodeError(const Status& status);
Status DecodeError(std::span<const std::byte> payload);

}  // namespace ps::wire
