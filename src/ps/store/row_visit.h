#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ps/base/types.h"
#include "ps/store/prefetch.h"
#include "ps/store/row_table.h"

namespace ps::store {

// How a batch of keys meets its rows. Every key costs one cache line of the index and the lines of
// its row, all of them far away, so a batch goes in blocks, and each block twice through memory:
// first the buckets of its keys are asked for and, kVisitAhead keys later, read; then their rows.
// Each pass is a loop over one kind of memory. Keys go in groups, and a group's requests are made
// in one tight loop: a request whose page is not in the TLB holds up its thread, and only requests
// close together overlap their page walks. Twelve in a group are best for buckets, for gathered
// rows of two lines and for changed ones of three (docs/performance.md).
inline constexpr std::size_t kVisitRequests = 12;
inline constexpr std::size_t kVisitAhead = 24;
inline constexpr std::size_t kVisitBlock = 1024;

// Calls ask(from, to) for groups of 0 .. n - 1 in turn, and use(from, to) for each of them when the
// groups of the kVisitAhead keys behind it have been asked for. `requests`: of one key.
template <typename Ask, typename Use>
[[gnu::always_inline]] inline void AskAhead(std::size_t n, std::size_t requests, Ask&& ask,
                                            Use&& use) {
  static_assert(kVisitRequests == 12 && kVisitAhead % 12 == 0);  // so any group divides kVisitAhead
  const std::size_t group = std::max<std::size_t>(1, kVisitRequests / requests);
  for (std::size_t at = 0; at < n + kVisitAhead; at += group) {
    if (at < n) ask(at, std::min(at + group, n));
    if (at < kVisitAhead) continue;
    use(at - kVisitAhead, std::min(at - kVisitAhead + group, n));
  }
}

// The bytes of a row that a visit needs, as prefetches; rows lie at multiples of 16.
class RowPrefetch {
 public:
  // Beyond kBytesMax the processor's own prefetcher has seen the pattern.
  explicit RowPrefetch(std::size_t bytes)
      : last_(std::min(bytes, kBytesMax) - 1), inner_((last_ + 48) / 64) {}

  std::size_t requests() const { return inner_ + 1; }
  // A null row is allowed; so the lines are counted from an address, not from a pointer.
  [[gnu::always_inline]] void operator()(const char* row) const {
    const auto address = reinterpret_cast<std::uintptr_t>(row);
    for (std::size_t line = 0; line < inner_; ++line) Prefetch(address + 64 * line);
    Prefetch(address + last_);
  }

 private:
  static constexpr std::size_t kBytesMax = 1024;
  std::size_t last_;
  std::size_t inner_;
};

// Keys that the first match in their home bucket does not lead to: moved on to another bucket,
// behind a key of the same tag, or missing. About one in fifteen. They queue up, and each step of a
// key's search asks for the memory that its next step reads, when the others have had their turns.
template <typename Use>
class LateKeys {
 public:
  LateKeys(const RowTable& table, std::span<const Key> keys, const RowPrefetch& prefetch,
           std::vector<std::uint32_t>* missing, const Use& use)
      : table_(table), keys_(keys), prefetch_(prefetch), missing_(missing), use_(use) {}

  // Key i, whose home bucket has been read; `wrong`: the row its first match led to, or null.
  void Add(std::size_t i, const RowHeader* wrong) {
    const std::uint64_t hash = table_.Hash(keys_[i]);
    const KeyIndex& index = table_.Index(hash);
    const std::uint32_t home = index.Home(hash);
    Late late{static_cast<std::uint32_t>(i), home, hash, nullptr, 0};
    if (wrong != nullptr) {
      const std::uint32_t matches = index.Bucket(home)->Match(KeyIndex::Tag(hash));
      late.matches = matches & (matches - 1);
    }
    if (Advance(index, &late)) Push(late);
    while (size_ > kQueue / 2) StepOldest();
  }
  void Flush() {
    while (size_ > 0) StepOldest();
  }

 private:
  static constexpr std::size_t kQueue = 32;

  struct Late {
    std::uint32_t i;
    std::uint32_t bucket;
    std::uint64_t hash;
    RowHeader* row;         // asked for, or null: `bucket` has been asked for
    std::uint32_t matches;  // of `bucket`, not yet looked at
  };

  void Push(const Late& late) { queue_[(first_ + size_++) % kQueue] = late; }

  void StepOldest() {
    Late late = queue_[first_];
    first_ = (first_ + 1) % kQueue;
    --size_;
    const KeyIndex& index = table_.Index(late.hash);
    if (late.row == nullptr) {
      late.matches = index.Bucket(late.bucket)->Match(KeyIndex::Tag(late.hash));
    } else if (late.row->key == keys_[late.i]) {
      return use_(late.i, late.row);
    }
    if (Advance(index, &late)) Push(late);
  }

  // Asks for the next row or bucket to look at; false when there is none: the key is missing.
  bool Advance(const KeyIndex& index, Late* late) {
    const IndexBucket* bucket = index.Bucket(late->bucket);
    if (late->matches != 0) {
      char* row = table_.arena().Row(bucket->rows[std::countr_zero(late->matches)]);
      prefetch_(row);
      late->row = reinterpret_cast<RowHeader*>(row);
      late->matches &= late->matches - 1;
      return true;
    }
    late->row = nullptr;
    late->bucket = index.Next(late->bucket);
    if (bucket->overflow == 0 || late->bucket == index.Home(late->hash)) {
      missing_->push_back(late->i);
      return false;
    }
    Prefetch(index.Bucket(late->bucket));
    return true;
  }

  const RowTable& table_;
  const std::span<const Key> keys_;
  const RowPrefetch& prefetch_;
  std::vector<std::uint32_t>* const missing_;
  const Use& use_;
  std::size_t first_ = 0;
  std::size_t size_ = 0;
  std::array<Late, kQueue> queue_;
};

// The row that the first match of each key's tag in its home bucket leads to, or null.
inline void FirstMatches(const RowTable& table, std::span<const Key> keys, char** rows) {
  static constexpr std::size_t kRing = std::bit_ceil(kVisitAhead + kVisitRequests);
  std::array<const IndexBucket*, kRing> buckets;
  std::array<std::uint8_t, kRing> tags;
  const RowArena& arena = table.arena();
  AskAhead(
      keys.size(), 1,
      [&](std::size_t from, std::size_t to) {
        for (std::size_t i = from; i < to; ++i) {
          const std::uint64_t hash = table.Hash(keys[i]);
          const KeyIndex& index = table.Index(hash);
          buckets[i % kRing] = index.Bucket(index.Home(hash));
          tags[i % kRing] = KeyIndex::Tag(hash);
        }
        for (std::size_t i = from; i < to; ++i) Prefetch(buckets[i % kRing]);
      },
      [&](std::size_t from, std::size_t to) {
        for (std::size_t i = from; i < to; ++i) {
          const IndexBucket* bucket = buckets[i % kRing];
          const std::uint32_t matches = bucket->Match(tags[i % kRing]);
          rows[i] = matches == 0 ? nullptr : arena.Row(bucket->rows[std::countr_zero(matches)]);
        }
      });
}

// Calls use(i, header) for each key that has a row, nearly in order, and appends the places of the
// others to `missing`. `use` must not create or remove rows.
template <typename Use>
void VisitRows(const RowTable& table, std::span<const Key> keys, const RowPrefetch& prefetch,
               std::vector<std::uint32_t>* missing, Use&& use) {
  std::array<char*, kVisitBlock> rows;
  std::array<std::uint32_t, kVisitBlock> others;  // places of keys for `late`
  LateKeys<Use> late(table, keys, prefetch, missing, use);
  for (std::size_t begin = 0; begin < keys.size(); begin += kVisitBlock) {
    const std::span<const Key> block =
        keys.subspan(begin, std::min(kVisitBlock, keys.size() - begin));
    std::size_t others_count = 0;
    FirstMatches(table, block, rows.data());
    AskAhead(
        block.size(), prefetch.requests(),
        [&](std::size_t from, std::size_t to) {
          for (std::size_t i = from; i < to; ++i) prefetch(rows[i]);
        },
        [&](std::size_t from, std::size_t to) {
          for (std::size_t i = from; i < to; ++i) {
            auto* header = reinterpret_cast<RowHeader*>(rows[i]);
            if (header != nullptr && header->key == block[i]) {
              use(begin + i, header);
            } else {
              others[others_count++] = static_cast<std::uint32_t>(i);
            }
          }
        });
    for (std::size_t o = 0; o < others_count; ++o) {
      const std::uint32_t i = others[o];
      late.Add(begin + i, reinterpret_cast<RowHeader*>(rows[i]));
    }
  }
  late.Flush();
}

// The same for rows that have been looked up: rows[i] is key i's, or null.
template <typename Use>
void VisitLocated(std::span<RowHeader* const> rows, const RowPrefetch& prefetch,
                  std::vector<std::uint32_t>* missing, Use&& use) {
  AskAhead(
      rows.size(), prefetch.requests(),
      [&](std::size_t from, std::size_t to) {
        for (std::size_t i = from; i < to; ++i) prefetch(reinterpret_cast<char*>(rows[i]));
      },
      [&](std::size_t from, std::size_t to) {
        for (std::size_t i = from; i < to; ++i) {
          if (rows[i] != nullptr) {
            use(i, rows[i]);
          } else {
            missing->push_back(static_cast<std::uint32_t>(i));
          }
        }
      });
}

// Calls use(i, hash, header or null) for the keys at the places `missing`, which it sorts. `use`
// may create rows: each key is looked up when its turn comes, so a key made earlier in the call is
// found.
template <typename Use>
void VisitMissing(const RowTable& table, std::span<const Key> keys,
                  std::vector<std::uint32_t>* missing, Use&& use) {
  std::sort(missing->begin(), missing->end());
  for (std::size_t m = 0; m < missing->size(); ++m) {
    if (m + kVisitAhead < missing->size()) {
      const std::uint64_t hash = table.Hash(keys[(*missing)[m + kVisitAhead]]);
      const KeyIndex& index = table.Index(hash);
      Prefetch(index.Bucket(index.Home(hash)));
    }
    const std::uint32_t i = (*missing)[m];
    const std::uint64_t hash = table.Hash(keys[i]);
    use(i, hash, table.Find(keys[i], hash));
  }
}

}  // namespace ps::store
