#pragma once

#include <cstdint>
#include <string_view>

#include "ps/base/types.h"

namespace ps {

// A bijective 64-bit mix with full avalanche. Stable for ever: checkpoints and placement depend on
// it; golden values in hash_test.cc.
constexpr std::uint64_t Mix64(std::uint64_t x) {
  // The finaliser of SplitMix64 (Steele, Lea, Flood 2014; constants by D. Stafford, variant 13).
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// The stable hash of a string's bytes (XXH3, 64 bits, seed 0; stable since xxHash 0.8.0).
std::uint64_t HashBytes(std::string_view bytes);

// The key of a null id: documented, reserved.
inline constexpr Key kNullKey = 0x9d3c5a71e8f20b64ull;

// Where a key lies: hash of the key with its table's salt (HashBytes of the table's name).
// The top bits name the partition, lower bits serve the index inside it.
constexpr std::uint64_t HashKey(std::uint64_t table_salt, Key key) {
  return Mix64(key ^ table_salt);
}

// The partition of a hash; `partition_bits` = log2(partition_count), 0..16.
constexpr PartitionId PartitionOf(std::uint64_t hash, int partition_bits) {
  return partition_bits == 0 ? 0 : static_cast<PartitionId>(hash >> (64 - partition_bits));
}

}  // namespace ps
