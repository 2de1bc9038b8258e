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
inline constexpr std::size_t kVisitAhead = 16;

// Calls ask_bucket(i), ask_row(i), use(i) for i < n, each in order of i, kVisitAhead apart.
template <typename AskBucket, typename AskRow, typename Use>
void VisitStaged(std::size_t n, AskBucket&& ask_bucket, AskRow&& ask_row, Use&& use) {
  constexpr std::size_t kAhead = kVisitAhead;
  const std::size_t lead = std::min(n, 2 * kAhead);
  for (std::size_t i = 0; i < lead; ++i) {
    ask_bucket(i);
    if (i >= kAhead) ask_row(i - kAhead);
  }
  for (std::size_t i = lead; i < n; ++i) {
    use(i - 2 * kAhead);
    ask_row(i - kAhead);
    ask_bucket(i);
  }
  for (std::size_t i = lead < kAhead ? 0 : n - kAhead; i < n; ++i) ask_row(i);
  for (std::size_t i = n - lead; i < n; ++i) use(i);
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

// Keys that the first match in their home bucket does not lead to: moved on to another bucket, behind a
// key of the same tag, or missing. About one in ten; they wait until a few can be served together.
template <typename Use>
class LateKeys {
 public:
  LateKeys(const RowTable& table, std::span<const Key> keys, const RowPrefetch& prefetch,
           std::vector<std::uint32_t>* missing, const Use& use)
      : table_(table), keys_(keys), prefetch_(prefetch), missing_(missing), use_(use) {}

  void Add(std::size_t i, std::uint64_t hash) {
    const KeyIndex& index = table_.Index(hash);
    const IndexBucket* next = index.Bucket(index.Next(index.Home(hash)));
    __builtin_prefetch(next);
    late_[count_] = Late{static_cast<std::uint32_t>(i), hash, next, nullptr};
    if (++count_ == kVisitAhead) Flush();
  }
  void Flush() {
    for (std::size_t k = 0; k < count_; ++k) FindCandidate(&late_[k]);
    for (std::size_t k = 0; k < count_; ++k) {
      const Late& late = late_[k];
      RowHeader* header = late.candidate;
      if (header == nullptr || header->key != keys_[late.i]) {
        header = table_.Find(keys_[late.i], late.hash);
      }
      if (header != nullptr) {
        use_(late.i, header);
      } else {
        missing_->push_back(late.i);
      }
    }
    count_ = 0;
  }

 private:
  struct Late {
    std::uint32_t i;
    std::uint64_t hash;
    const IndexBucket* next;
    RowHeader* candidate;
  };

  // The second match of the home bucket, else the first of the next one.
  void FindCandidate(Late* late) const {
    const KeyIndex& index = table_.Index(late->hash);
    const IndexBucket* home = index.Bucket(index.Home(late->hash));
    const std::uint8_t tag = KeyIndex::Tag(late->hash);
    const std::uint32_t at_home = home->Match(tag);
    const std::uint32_t behind = at_home & (at_home - 1);
    const std::uint32_t matches = behind != 0 ? behind : late->next->Match(tag);
    if (matches == 0) return;
    const IndexBucket* bucket = behind != 0 ? home : late->next;
    char* row = table_.arena().Row(bucket->rows[std::countr_zero(matches)]);
    prefetch_(row);
    late->candidate = reinterpret_cast<RowHeader*>(row);
  }

  const RowTable& table_;
  const std::span<const Key> keys_;
  const RowPrefetch& prefetch_;
  std::vector<std::uint32_t>* const missing_;
  const Use& use_;
  std::size_t count_ = 0;
  std::array<Late, kVisitAhead> late_;
};

// Calls use(i, header) for each key that has a row, nearly in order, and appends the places of the
// others to `missing`. `use` must not create or remove rows.
template <typename Use>
void VisitRows(const RowTable& table, std::span<const Key> keys, const RowPrefetch& prefetch,
               std::vector<std::uint32_t>* missing, Use&& use) {
  struct Probe {
    std::uint64_t hash;
    const IndexBucket* bucket;
    RowHeader* row;
  };
  std::array<Probe, 2 * kVisitAhead> ring;
  const auto probe = [&ring](std::size_t i) -> Probe& { return ring[i % ring.size()]; };
  const RowArena& arena = table.arena();
  LateKeys<Use> late(table, keys, prefetch, missing, use);

  VisitStaged(
      keys.size(),
      [&](std::size_t i) {
        Probe& p = probe(i);
        p.hash = table.Hash(keys[i]);
        const KeyIndex& index = table.Index(p.hash);
        p.bucket = index.Bucket(index.Home(p.hash));
        __builtin_prefetch(p.bucket);
      },
      [&](std::size_t i) {
        Probe& p = probe(i);
        const std::uint32_t matches = p.bucket->Match(KeyIndex::Tag(p.hash));
        if (matches == 0) [[unlikely]] {
          p.row = nullptr;
          __builtin_prefetch(p.bucket + 1);  // where it has most likely gone
          return;
        }
        char* row = arena.Row(p.bucket->rows[std::countr_zero(matches)]);
        prefetch(row);
        p.row = reinterpret_cast<RowHeader*>(row);
      },
      [&](std::size_t i) {
        const Probe& p = probe(i);
        if (p.row != nullptr && p.row->key == keys[i]) [[likely]] {
          use(i, p.row);
        } else {
          late.Add(i, p.hash);
        }
      });
  late.Flush();
}

// Calls use(i, hash, header or null) for the keys at the places `missing`, in order of i. `use` may
// create rows: each key is looked up when its turn comes, so a key made earlier in the call is found.
template <typename Use>
void VisitMissing(const RowTable& table, std::span<const Key> keys,
                  std::vector<std::uint32_t>* missing, Use&& use) {
  std::sort(missing->begin(), missing->end());
  VisitStaged(
      missing->size(),
      [&](std::size_t m) {
        const std::uint64_t hash = table.Hash(keys[(*missing)[m]]);
        const KeyIndex& index = table.Index(hash);
        __builtin_prefetch(index.Bucket(index.Home(hash)));
        asm volatile("");  // GCC drops a function that only prefetches
      },
      [](std::size_t) {},
      [&](std::size_t m) {
        const std::uint32_t i = (*missing)[m];
        const std::uint64_t hash = table.Hash(keys[i]);
        use(i, hash, table.Find(keys[i], hash));
      });
}

}  // namespace ps::store
