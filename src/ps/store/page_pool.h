#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace ps::store {

// Memory of one shard, shared by its tables: 2 MiB pages (huge pages where the system gives them),
// handed out in runs of 64 KiB units and in index chunks of 2 KiB.
// Single-threaded, as the shard is. Memory is not zeroed. A pool out of memory ends the process: the
// row budget is what refuses work, and it does so earlier.
class PagePool {
 public:
  static constexpr std::size_t kPageBytes = std::size_t{2} << 20;
  static constexpr std::size_t kUnitBytes = std::size_t{64} << 10;
  static constexpr int kUnitsPerPage = kPageBytes / kUnitBytes;
  static constexpr std::size_t kChunkBytes = std::size_t{2} << 10;

  PagePool() = default;
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // A run of `units` units inside one page, aligned to 64 KiB. 1 <= units <= kUnitsPerPage.
  char* AllocateUnits(int units);
  void FreeUnits(char* start, int units);

  // kChunkBytes, aligned to a cache line. Freed chunks serve later chunks only.
  void* AllocateChunk();
  void FreeChunk(void* chunk);

  // Bytes handed out and not freed: units, and chunks at kChunkBytes each.
  std::size_t used_bytes() const { return used_bytes_; }
  // Bytes of the pages that hold at least one used unit.
  std::size_t held_bytes() const;

 private:
  struct Page {
    char* start;
    std::uint32_t used_units;  // bit i: unit i is taken
  };

  void MapRegion();
  std::size_t PageOf(const char* start) const;

  std::vector<Page> pages_;        // in the order of mapping
  std::vector<char*> regions_;     // mappings, kRegionBytes each
  std::size_t first_with_room_ = 0;  // no page before it has a free unit
  std::vector<void*> free_chunks_;
  std::size_t used_bytes_ = 0;
};

}  // namespace ps::store
