#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <bit>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "ps/store/page_pool.h"

namespace ps::store {

// The number of a row inside one table of one shard.
using RowNumber = std::uint32_t;
inline constexpr RowNumber kNoRow = 0xffffffffu;

// Bit i: byte i of the 8 is `byte`.
constexpr std::uint32_t MatchEightBytes(std::uint64_t bytes, std::uint8_t byte) {
  constexpr std::uint64_t kLow7 = 0x7f7f7f7f7f7f7f7full;
  const std::uint64_t x = bytes ^ (0x0101010101010101ull * byte);
  const std::uint64_t zero_bytes = ~(((x & kLow7) + kLow7) | x | kLow7);
  // Moves bit 8i to bit 56 + i; no two products meet, so nothing carries.
  return static_cast<std::uint32_t>(((zero_bytes >> 7) * 0x0102040810204080ull) >> 56);
}

// One cache line of the index: twelve slots of (8-bit tag, row number).
//
// A key lives in the first bucket from its home on that had room when it came. `overflow` counts
// the keys that passed this bucket because it was full, so a search ends at the first bucket nobody
// passed, and a removal leaves no tombstone: it takes back the counts along its way.
struct alignas(64) IndexBucket {
  static constexpr int kSlots = 12;

  std::uint8_t tags[kSlots];
  std::uint16_t occupied;  // bit i: slot i holds a row
  std::uint16_t overflow;  // sticks at 65,535
  RowNumber rows[kSlots];

  // Bit i: slot i is occupied and carries `tag`.
  std::uint32_t Match(std::uint8_t tag) const {
#if defined(__SSE2__)
    const __m128i line = _mm_load_si128(reinterpret_cast<const __m128i*>(this));
    const __m128i equal = _mm_cmpeq_epi8(line, _mm_set1_epi8(static_cast<char>(tag)));
    const auto matches = static_cast<std::uint32_t>(_mm_movemask_epi8(equal));
#else
    static_assert(std::endian::native == std::endian::little);
    std::uint64_t words[2];
    std::memcpy(words, static_cast<const void*>(this), sizeof(words));
    const std::uint32_t matches = MatchEightBytes(words[0], tag) | MatchEightBytes(words[1], tag)
                                                                       << 8;
#endif
    return matches & occupied;  // bits 12..15 are clear in `occupied`
  }
};
static_assert(sizeof(IndexBucket) == 64);

// Where the rows of one (table, partition) are: hash -> row number. Knows no keys: who searches
// compares the row's key. The partition is named by the top bits of the hash, so the index uses the
// low 32: the tag is their low byte, the home bucket comes from their high end.
// At most 3/4 full, and grows by an eighth. Sixteen bytes, so that the indexes of all partitions
// stay in the cache. Release() before destruction.
class KeyIndex {
 public:
  KeyIndex() = default;
  KeyIndex(const KeyIndex&) = delete;
  KeyIndex& operator=(const KeyIndex&) = delete;
  ~KeyIndex() { assert(bucket_count_ == 0); }

  static std::uint8_t Tag(std::uint64_t hash) { return static_cast<std::uint8_t>(hash); }

  std::uint32_t rows() const { return rows_; }
  std::uint32_t bucket_count() const { return bucket_count_; }
  std::size_t memory_bytes() const { return bucket_count_ * sizeof(IndexBucket); }

  std::uint32_t Home(std::uint64_t hash) const {
    return static_cast<std::uint32_t>(
        (std::uint64_t{static_cast<std::uint32_t>(hash)} * bucket_count_) >> 32);
  }
  // An index without rows has one empty bucket to look at, number 0.
  const IndexBucket* Bucket(std::uint32_t number) const { return buckets_ + number; }
  std::uint32_t Next(std::uint32_t number) const {
    return number + 1 >= bucket_count_ ? 0 : number + 1;
  }

  // Calls fn(row) for the rows that may have this hash, until it returns true. The row it returned
  // true for, or kNoRow.
  template <typename Fn>
  RowNumber Find(std::uint64_t hash, Fn&& fn) const {
    std::uint32_t number = Home(hash);
    std::uint32_t left = bucket_count_;
    do {
      const IndexBucket& bucket = buckets_[number];
      for (std::uint32_t m = bucket.Match(Tag(hash)); m != 0; m &= m - 1) {
        const RowNumber row = bucket.rows[std::countr_zero(m)];
        if (fn(row)) return row;
      }
      if (bucket.overflow == 0) return kNoRow;
      number = Next(number);
    } while (--left > 0);
    return kNoRow;
  }

  bool full() const { return !has_room(1); }
  bool has_room(std::size_t rows) const { return rows_ + rows <= rows_max(); }
  // Requires !full() and that the row is not in the index.
  void Insert(std::uint64_t hash, RowNumber row);
  // Requires that (hash, row) was inserted.
  void Remove(std::uint64_t hash, RowNumber row);

  // Makes room for `more` rows beside those it has, or for an eighth more, and empties the index:
  // the caller inserts every row again.
  void Grow(PagePool* pool, std::size_t more = 1);
  // Gives all memory back; the index is as new.
  void Release(PagePool* pool);

 private:
  static constexpr std::uint32_t kBucketsPerGrain = PagePool::kGrainBytes / sizeof(IndexBucket);
  static const IndexBucket kEmptyBucket;

  // At most 3/4 full.
  static constexpr std::uint32_t kRowsPerBucket = IndexBucket::kSlots * 3 / 4;
  std::uint64_t rows_max() const { return std::uint64_t{bucket_count_} * kRowsPerBucket; }

  // Fewer than kBucketsPerGrain: a block of their own; else whole grains of the pool.
  IndexBucket* buckets_ = const_cast<IndexBucket*>(&kEmptyBucket);
  std::uint32_t bucket_count_ = 0;
  std::uint32_t rows_ = 0;
};
static_assert(sizeof(KeyIndex) == 16);

}  // namespace ps::store
