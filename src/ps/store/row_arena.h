#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "ps/store/key_index.h"
#include "ps/store/page_pool.h"
#include "ps/store/prefetch.h"
#include "ps/store/row_layout.h"

namespace ps::store {

// A free row is marked in its header: this bit pattern of `count`, a NaN no arithmetic yields.
inline constexpr std::uint32_t kFreeRowCountBits = 0xffffffffu;

inline bool IsLive(const RowHeader* header) {
  std::uint32_t bits;
  std::memcpy(&bits, &header->count, sizeof(bits));
  return bits != kFreeRowCountBits;
}

// The row memory of one table in one shard: rows of one stride, handed out to the chains of its
// partitions in slabs of 2^order rows.
//
// Row numbers are (extent << bits) + place, so a row's address is one look-up in a table of a few
// kilobytes, a multiplication and an addition. Extents come from the shard's pool, 64 KiB at first
// and whole pages once the table is large; they go back with the arena. A slab given back serves
// any partition of the table. Rows never move. Single-threaded.
class RowArena {
 public:
  // `pool` outlives the arena.
  RowArena(PagePool* pool, std::size_t stride_bytes);
  ~RowArena() { Clear(); }
  RowArena(const RowArena&) = delete;
  RowArena& operator=(const RowArena&) = delete;

  std::size_t stride_bytes() const { return stride_bytes_; }
  char* Row(RowNumber row) const {
    return extents_[row >> place_bits_].start + (row & place_mask_) * stride_bytes_;
  }
  RowHeader* Header(RowNumber row) const { return reinterpret_cast<RowHeader*>(Row(row)); }

  // Bounds of a slab's order: about half a KiB (one row at least) to 64 KiB.
  int order_min() const { return order_min_; }
  int order_max() const { return order_max_; }

  // The first of 2^order rows with consecutive numbers, in one run of memory.
  RowNumber AllocateSlab(int order);
  void FreeSlab(RowNumber first, int order) { free_slabs_[order].push_back(first); }

  // Takes every slab back, and gives all memory to the pool.
  void Clear();

  // Bytes held from the pool and for bookkeeping.
  std::size_t memory_bytes() const;

 private:
  struct Extent {
    char* start;
    int units;
  };

  bool SplitLarger(int order);
  void AddExtent();
  // Turns the rest of the newest extent into free slabs.
  void DistributeRest();

  PagePool* const pool_;
  const std::size_t stride_bytes_;
  int order_min_;
  int order_max_;
  int place_bits_;
  std::uint32_t place_mask_;
  std::vector<Extent> extents_;
  std::uint32_t next_place_ = 0;                    // in the newest extent
  std::uint32_t extent_places_ = 0;                 // rows of the newest extent
  std::vector<std::vector<RowNumber>> free_slabs_;  // by order
  std::size_t extent_bytes_ = 0;
};

// The slabs of one (table, partition), in the order they were made. Movable with its owner.
class RowChain {
 public:
  struct Slab {
    RowNumber first;
    std::uint16_t used;  // rows [0, used) are live or on the free list
    std::uint16_t live;
    std::uint16_t free_head;  // place in the slab, kNoPlace at the end; the links lie in the rows
    std::uint8_t order;
  };
  static constexpr std::uint16_t kNoPlace = 0xffff;

  const std::vector<Slab>& slabs() const { return slabs_; }
  std::uint32_t rows() const { return rows_; }

  // A row of unspecified content, which the caller makes live by writing its header.
  RowNumber AllocateRow(RowArena* arena);
  // The slab that holds the row.
  std::size_t SlabOf(RowNumber row) const;
  // Marks the row free and keeps its memory for a later row of this partition.
  void FreeRow(RowArena* arena, std::size_t slab, RowNumber row);
  // Gives a slab without live rows back to the arena; the slabs behind it move up by one.
  void EraseSlab(RowArena* arena, std::size_t slab);

  // fn(row, header) for each live row, in slab order.
  template <typename Fn>
  void ForEachLive(const RowArena& arena, Fn&& fn) const {
    for (const Slab& slab : slabs_) {
      char* at = arena.Row(slab.first);
      for (std::uint32_t place = 0; place < slab.used; ++place, at += arena.stride_bytes()) {
        auto* header = reinterpret_cast<RowHeader*>(at);
        Prefetch(at + 8 * arena.stride_bytes());
        if (IsLive(header)) fn(slab.first + place, header);
      }
    }
  }

  std::size_t memory_bytes() const { return slabs_.capacity() * sizeof(Slab); }

 private:
  int NextOrder(const RowArena& arena) const;

  std::vector<Slab> slabs_;  // only the last may have used < its size
  std::uint32_t rows_ = 0;
  std::uint32_t places_ = 0;     // rows of all slabs
  std::uint32_t free_rows_ = 0;  // on free lists
  std::uint32_t free_from_ = 0;  // no slab before it has a free row
};

}  // namespace ps::store
