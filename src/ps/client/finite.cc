#include "ps/client/finite.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "ps/base/stream_row.h"

namespace ps::client {
namespace {

constexpr std::size_t kBlock = 1'024;
constexpr std::uint32_t kExponent = 0x7f800000;

// An exponent of all ones. Without a branch, so that the compiler makes it SIMD.
std::uint32_t HasNonFinite(const float* values, std::size_t count) {
  std::uint32_t found = 0;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    found |= (bits & kExponent) == kExponent ? 1 : 0;
  }
  return found;
}

}  // namespace

std::optional<std::size_t> FindNonFinite(std::span<const float> values) {
  for (std::size_t at = 0; at < values.size(); at += kBlock) {
    std::size_t count = std::min(kBlock, values.size() - at);
    if (HasNonFinite(values.data() + at, count) == 0) continue;
    while (HasNonFinite(values.data() + at, 1) == 0) ++at;
    return at;
  }
  return std::nullopt;
}

// In pieces that stay in the first cache level. Copies of 2 KiB and more are one "rep movsb" to
// glibc, which takes up to four times as long on AMD Zen 3 (copy_run.h).
bool CopyFinite(float* to, const float* from, std::size_t count, bool for_others) {
  constexpr std::size_t kPiece = 128;
  const bool streamed = for_others && CanStream(to, count);
  std::uint32_t found = 0;
  std::size_t at = 0;
  for (; at + kPiece <= count; at += kPiece) {
    found |= HasNonFinite(from + at, kPiece);
    if (streamed) {
      StreamRow(to + at, from + at, kPiece);
    } else {
      std::memcpy(to + at, from + at, kPiece * sizeof(float));
    }
  }
  if (at == count) return found == 0;
  found |= HasNonFinite(from + at, count - at);
  if (streamed) {
    StreamRow(to + at, from + at, count - at);
  } else {
    std::memcpy(to + at, from + at, (count - at) * sizeof(float));
  }
  return found == 0;
}

}  // namespace ps::client
