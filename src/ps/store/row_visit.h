#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ps/base/types.h"
#include "ps/store/row_table.h"

namespace ps::store {

// How a batch of keys meets its rows. Every key costs one cache line of the index and the lines of its
// row, all of them far away; so keys go through in groups, each group one stage behind the one before
// it: ask for the bucket; read the bucket and ask for the row; use the row. Two groups (32 keys) of
// cache misses are then under way at any time.
inline constexpr std::size_t kVisitGroup = 16;

// Calls ask_bucket(i), ask_row(i), use(i) for i < n, each in order of i, one group apart.
template <typename AskBucket, typename AskRow, typename Use>
void VisitStaged(std::size_t n, AskBucket&& ask_bucket, AskRow&& ask_row, Use&& use) {
  const std::size_t end = n + 2 * kVisitGroup;
  for (std::size_t begin = 0; begin < end; begin += kVisitGroup) {
    const std::size_t bucket_end = std::min(begin + kVisitGroup, n);
    for (std::size_t i = begin; i < bucket_end; ++i) ask_bucket(i);
    if (begin < kVisitGroup) continue;
    const std::size_t row_end = std::min(begin, n);
    for (std::size_t i = begin - kVisitGroup; i < row_end; ++i) ask_row(i);
    if (begin < 2 * kVisitGroup) continue;
    const std::size_t use_end = std::min(begin - kVisitGroup, n);
    for (std::size_t i = begin - 2 * kVisitGroup; i < use_end; ++i) use(i);
  }
}

// The bytes of a row that a visit needs, as prefetches; rows lie at multiples of 16.
class RowPrefetch {
 public:
  // Beyond kBytesMax the processor's own prefetcher has seen the pattern.
  explicit RowPrefetch(std::size_t bytes)
      : last_(std::min(bytes, kBytesMax) - 1), inner_((last_ + 48) / 64) {}

  void operator()(const char* row) const {
    for (std::size_t line = 0; line < inner_; ++line) __builtin_prefetch(row + 64 * line);
    __builtin_prefetch(row + last_);
  }

 private:
  static constexpr std::size_t kBytesMax = 1024;
  std::size_t last_;
  std::size_t inner_;
};

// Calls use(i, header) for each key that its home bucket leads to at once, in order; the places of
// all others (missing, moved on to another bucket, behind a key of the same tag: about 5 %) are
// appended to `rest`. `use` must not create or remove rows.
template <typename Use>
void VisitRows(const RowTable& table, std::span<const Key> keys, const RowPrefetch& prefetch,
               std::vector<std::uint32_t>* rest, Use&& use) {
  static constexpr IndexBucket kEmptyBucket{};
  constexpr std::size_t kRing = 4 * kVisitGroup;
  std::array<const IndexBucket*, kRing> buckets;
  std::array<std::uint8_t, kRing> tags;
  std::array<char*, kRing> rows;
  const RowArena& arena = table.arena();

  VisitStaged(
      keys.size(),
      [&](std::size_t i) {
        const std::uint64_t hash = table.Hash(keys[i]);
        const KeyIndex& index = table.Index(hash);
        const IndexBucket* bucket =
            index.buckets() == 0 ? &kEmptyBucket : index.Bucket(index.Home(hash));
        __builtin_prefetch(bucket);
        buckets[i % kRing] = bucket;
        tags[i % kRing] = KeyIndex::Tag(hash);
      },
      [&](std::size_t i) {
        const IndexBucket* bucket = buckets[i % kRing];
        const std::uint32_t matches = bucket->Match(tags[i % kRing]);
        char* row = nullptr;
        if (matches != 0) {
          row = arena.Row(bucket->rows[std::countr_zero(matches)]);
          prefetch(row);
        }
        rows[i % kRing] = row;
      },
      [&](std::size_t i) {
        auto* header = reinterpret_cast<RowHeader*>(rows[i % kRing]);
        if (header != nullptr && header->key == keys[i]) {
          use(i, header);
        } else {
          rest->push_back(static_cast<std::uint32_t>(i));
        }
      });
}

// Calls use(i, hash, header or null) for the keys at the places `rest`, in order. `use` may create
// rows: each key is looked up when its turn comes, so a key made earlier in the call is found.
template <typename Use>
void VisitRest(const RowTable& table, std::span<const Key> keys,
               std::span<const std::uint32_t> rest, const RowPrefetch& prefetch, Use&& use) {
  VisitStaged(
      rest.size(),
      [&](std::size_t r) {
        const std::uint64_t hash = table.Hash(keys[rest[r]]);
        const KeyIndex& index = table.Index(hash);
        if (index.buckets() == 0) return;
        const std::uint32_t home = index.Home(hash);
        __builtin_prefetch(index.Bucket(home));
        __builtin_prefetch(index.Bucket(index.Next(home)));
      },
      [&](std::size_t r) {
        const std::uint64_t hash = table.Hash(keys[rest[r]]);
        table.Index(hash).Find(hash, [&](RowNumber row) {
          prefetch(table.arena().Row(row));
          return false;
        });
      },
      [&](std::size_t r) {
        const std::uint32_t i = rest[r];
        const std::uint64_t hash = table.Hash(keys[i]);
        use(i, hash, table.Find(keys[i], hash));
      });
}

}  // namespace ps::store
