#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "ps/base/hash.h"
#include "ps/base/types.h"
#include "ps/store/key_index.h"
#include "ps/store/page_pool.h"
#include "ps/store/row_arena.h"

namespace ps::store {

// Names a table together with how many of its rows have gone: no two tables are ever the same.
class RowEpoch {
 public:
  RowEpoch() : table_(next_table_.fetch_add(1, std::memory_order_relaxed)) {}
  void Advance() { ++removals_; }
  bool operator==(const RowEpoch&) const = default;

 private:
  static inline std::atomic<std::uint64_t> next_table_{0};
  std::uint64_t table_;
  std::uint64_t removals_ = 0;
};

// Keys to rows for the partitions one shard holds of one table: an index and a chain of slabs per
// partition, made with its first row. Knows headers, not what follows them. Single-threaded.
class RowTable {
 public:
  // `salt`: HashBytes of the table's name.
  RowTable(std::shared_ptr<PagePool> pool, std::uint64_t salt, int partition_bits,
           std::size_t stride_bytes);
  ~RowTable() { Clear(); }
  RowTable(const RowTable&) = delete;
  RowTable& operator=(const RowTable&) = delete;

  std::uint64_t Hash(Key key) const { return HashKey(salt_, key); }
  const RowArena& arena() const { return arena_; }
  std::uint64_t rows() const { return rows_; }

  const KeyIndex& Index(std::uint64_t hash) const {
    return indexes_[PartitionOf(hash, partition_bits_)];
  }

  // The key's row, or null. Pointers to rows stay valid until the row goes.
  RowHeader* Find(Key key) const { return Find(key, Hash(key)); }
  RowHeader* Find(Key key, std::uint64_t hash) const {
    const RowNumber row = FindNumber(key, hash);
    return row == kNoRow ? nullptr : arena_.Header(row);
  }
  // Another number once any row has gone, whichever table it was of: until then a pointer to a row
  // leads to the row of the same key.
  RowEpoch epoch() const { return epoch_; }

  // Requires that the key has no row. The header's key is set, all else is the caller's to write.
  RowHeader* Create(Key key, std::uint64_t hash);
  // Makes room in a partition's index for as many more rows at once, which Create would make step
  // by step.
  void MakeRoom(PartitionId partition, std::size_t rows);
  // False when the key has no row.
  bool Remove(Key key);

  // Segments are numbered from 1 in the order of their partitions' first rows; 0 = none.
  std::uint32_t segments() const { return static_cast<std::uint32_t>(segments_.size()) - 1; }
  std::uint32_t SegmentOf(PartitionId partition) const { return directory_[partition]; }
  const RowChain& chain(std::uint32_t segment) const { return segments_[segment].chain; }
  // Prefetches a segment's index, as far as it fits the nearer caches: many removals follow.
  void AskForIndex(std::uint32_t segment) const;
  // For sweeps: take out a live row of the slab, and give back what became empty.
  void RemoveAt(std::uint32_t segment, std::size_t slab, RowNumber row);
  void EraseEmptySlab(std::uint32_t segment, std::size_t slab);
  void ReleaseIndexIfEmpty(std::uint32_t segment);

  void Clear();
  // Everything held: slabs, index, directory.
  std::size_t memory_bytes() const;

 private:
  RowNumber FindNumber(Key key, std::uint64_t hash) const {
    return Index(hash).Find(hash,
                            [this, key](RowNumber row) { return arena_.Header(row)->key == key; });
  }
  struct Segment {
    PartitionId partition;
    RowChain chain;
  };

  Segment& SegmentFor(PartitionId partition);
  void GrowIndex(const Segment& segment, std::size_t more);
  KeyIndex& IndexOf(const Segment& segment) { return indexes_[segment.partition]; }

  const std::shared_ptr<PagePool> pool_;
  const std::uint64_t salt_;
  const int partition_bits_;
  RowArena arena_;
  const std::unique_ptr<KeyIndex[]> indexes_;  // by partition
  std::vector<std::uint32_t> directory_;       // partition -> segment
  std::vector<Segment> segments_;              // [0] stays empty
  std::uint64_t rows_ = 0;
  RowEpoch epoch_;
};

}  // namespace ps::store
