#include "ps/store/row_arena.h"

#include <algorithm>
#include <cassert>

namespace ps::store {
namespace {

constexpr std::size_t kSlabBytesMin = 512;
constexpr std::size_t kSlabBytesMax = PagePool::kUnitBytes;
// A new extent is at most this part of its table, and a page at most: many small tables share a
// page. Powers of two, so that extents fill pages.
constexpr std::size_t kExtentsPerTable = 32;
// Rows beyond this have an extent of their own: several to a page would leave too much over.
constexpr std::size_t kOwnExtentStrideBytes = PagePool::kPageBytes / 8;

int FloorLog2(std::size_t n) { return static_cast<int>(std::bit_width(n)) - 1; }

int UnitsOf(std::size_t bytes) {
  return static_cast<int>((bytes + PagePool::kUnitBytes - 1) / PagePool::kUnitBytes);
}

int ExtentUnits(std::size_t table_bytes, std::size_t stride_bytes) {
  if (stride_bytes > kOwnExtentStrideBytes) return UnitsOf(stride_bytes);
  const std::size_t wanted = std::bit_floor(table_bytes / kExtentsPerTable / PagePool::kUnitBytes);
  return std::clamp(static_cast<int>(std::min<std::size_t>(wanted, PagePool::kUnitsPerPage)),
                    UnitsOf(stride_bytes), PagePool::kUnitsPerPage);
}

// Link of a row on its slab's free list; lies where the key was.
struct FreeLink {
  std::uint16_t next;
};

}  // namespace

RowArena::RowArena(PagePool* pool, std::size_t stride_bytes)
    : pool_(pool), stride_bytes_(stride_bytes) {
  order_min_ = FloorLog2(std::max<std::size_t>(1, kSlabBytesMin / stride_bytes));
  order_max_ = FloorLog2(std::max<std::size_t>(1, kSlabBytesMax / stride_bytes));
  const std::size_t rows_max = std::max<std::size_t>(1, PagePool::kPageBytes / stride_bytes);
  place_bits_ = static_cast<int>(std::bit_width(rows_max - 1));
  place_mask_ = (std::uint32_t{1} << place_bits_) - 1;
  free_slabs_.resize(order_max_ + 1);
}

RowNumber RowArena::AllocateSlab(int order) {
  assert(order >= order_min_ && order <= order_max_);
  if (SplitLarger(order)) {
    const RowNumber first = free_slabs_[order].back();
    free_slabs_[order].pop_back();
    return first;
  }
  const std::uint32_t rows = std::uint32_t{1} << order;
  while (next_place_ + rows > extent_places_) {
    DistributeRest();
    AddExtent();
  }
  const auto extent = static_cast<std::uint32_t>(extents_.size() - 1);
  const RowNumber first = (extent << place_bits_) + next_place_;
  next_place_ += rows;
  return first;
}

// Makes a free slab of this order out of the smallest free one that is larger, when there is none.
bool RowArena::SplitLarger(int order) {
  int from = order;
  while (free_slabs_[from].empty()) {
    if (++from > order_max_) return false;
  }
  for (; from > order; --from) {
    const RowNumber first = free_slabs_[from].back();
    free_slabs_[from].pop_back();
    free_slabs_[from - 1].push_back(first + (RowNumber{1} << (from - 1)));
    free_slabs_[from - 1].push_back(first);
  }
  return true;
}

void RowArena::AddExtent() {
  const int units = ExtentUnits(extent_bytes_, stride_bytes_);
  extents_.push_back(Extent{pool_->AllocateUnits(units), units});
  extent_bytes_ += units * PagePool::kUnitBytes;
  next_place_ = 0;
  extent_places_ = static_cast<std::uint32_t>(units * PagePool::kUnitBytes / stride_bytes_);
}

void RowArena::DistributeRest() {
  for (int order = order_max_; order >= order_min_; --order) {
    const std::uint32_t rows = std::uint32_t{1} << order;
    while (next_place_ + rows <= extent_places_) {
      const auto extent = static_cast<std::uint32_t>(extents_.size() - 1);
      free_slabs_[order].push_back((extent << place_bits_) + next_place_);
      next_place_ += rows;
    }
  }
}

void RowArena::Clear() {
  for (const Extent& extent : extents_) pool_->FreeUnits(extent.start, extent.units);
  extents_.clear();
  for (auto& slabs : free_slabs_) slabs.clear();
  next_place_ = extent_places_ = 0;
  extent_bytes_ = 0;
}

std::size_t RowArena::memory_bytes() const {
  std::size_t bytes = extent_bytes_ + extents_.capacity() * sizeof(Extent);
  for (const auto& slabs : free_slabs_) bytes += slabs.capacity() * sizeof(RowNumber);
  return bytes;
}

int RowChain::NextOrder(const RowArena& arena) const {
  // A new slab has about as many rows as the square root of the chain: that balances the free end
  // of the last slab against the bookkeeping of all (each about 1 byte a row at 5,000 rows of 144
  // bytes).
  const int order = FloorLog2(std::max<std::uint32_t>(1, places_)) / 2;
  return std::clamp(order, arena.order_min(), arena.order_max());
}

RowNumber RowChain::AllocateRow(RowArena* arena) {
  ++rows_;
  if (free_rows_ > 0) {
    while (slabs_[free_from_].free_head == kNoPlace) ++free_from_;
    Slab& slab = slabs_[free_from_];
    const RowNumber row = slab.first + slab.free_head;
    FreeLink link;
    std::memcpy(&link, arena->Row(row), sizeof(link));
    slab.free_head = link.next;
    ++slab.live;
    --free_rows_;
    return row;
  }
  if (slabs_.empty() || slabs_.back().used == 1u << slabs_.back().order) {
    const int order = NextOrder(*arena);
    if (slabs_.size() == slabs_.capacity()) slabs_.reserve(slabs_.size() + slabs_.size() / 4 + 1);
    slabs_.push_back(
        Slab{arena->AllocateSlab(order), 0, 0, kNoPlace, static_cast<std::uint8_t>(order)});
    places_ += 1u << order;
  }
  Slab& slab = slabs_.back();
  ++slab.live;
  return slab.first + slab.used++;
}

std::size_t RowChain::SlabOf(RowNumber row) const {
  for (std::size_t i = 0; i < slabs_.size(); ++i) {
    if (row - slabs_[i].first < slabs_[i].used) return i;
  }
  assert(false);
  return 0;
}

void RowChain::FreeRow(RowArena* arena, std::size_t slab_index, RowNumber row) {
  Slab& slab = slabs_[slab_index];
  RowHeader* header = arena->Header(row);
  const FreeLink link{slab.free_head};
  std::memcpy(static_cast<void*>(header), &link, sizeof(link));
  std::memcpy(&header->count, &kFreeRowCountBits, sizeof(kFreeRowCountBits));
  slab.free_head = static_cast<std::uint16_t>(row - slab.first);
  --slab.live;
  --rows_;
  ++free_rows_;
  free_from_ = std::min(free_from_, static_cast<std::uint32_t>(slab_index));
}

void RowChain::EraseSlab(RowArena* arena, std::size_t slab_index) {
  const Slab& slab = slabs_[slab_index];
  assert(slab.live == 0);
  free_rows_ -= slab.used;
  places_ -= 1u << slab.order;
  arena->FreeSlab(slab.first, slab.order);
  slabs_.erase(slabs_.begin() + static_cast<std::ptrdiff_t>(slab_index));
  if (free_from_ > slab_index) --free_from_;
  if (slabs_.empty()) std::vector<Slab>().swap(slabs_);
}

}  // namespace ps::store
