#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace ps::store {

// Memory of one shard, shared by its tables: 2 MiB pages (huge pages where the system gives them),
// handed out as runs of 64 KiB units for rows and as runs of 1 KiB grains for index segments.
// Single-threaded, as the shard is. Memory is not zeroed. A pool out of memory ends the process:
// the row budget is what refuses work, and it does so earlier.
class PagePool {
 public:
  static constexpr std::size_t kPageBytes = std::size_t{2} << 20;
  static constexpr std::size_t kUnitBytes = std::size_t{64} << 10;
  static constexpr int kUnitsPerPage = kPageBytes / kUnitBytes;
  static constexpr std::size_t kGrainBytes = std::size_t{1} << 10;
  static constexpr std::size_t kGrainsPerPage = kPageBytes / kGrainBytes;

  PagePool() = default;
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // A run of `units` units inside one page, aligned to 64 KiB. 1 <= units <= kUnitsPerPage.
  char* AllocateUnits(int units);
  void FreeUnits(char* start, int units);

  // A run of grains, aligned to a grain; beyond a page, a mapping of its own. First fit, and free
  // neighbours join: segments that grow by an eighth, each at its own time, leave about a fifth of
  // their memory in holes. grains >= 1.
  void* AllocateGrains(std::size_t grains);
  void FreeGrains(void* start, std::size_t grains);

  // For who is about to fill many pages: the system finds a page's memory at its first use, which
  // takes 0.2 ms, and 4 where a virtual machine has to ask its host. TakeUntouched keeps back one
  // of the `ahead` pages that come next, null when each of them was; Touch uses it, by any thread;
  // GiveTouched lets it be handed out. At most a quarter of what was handed out is kept ready, so
  // that a small pool stays small.
  char* TakeUntouched(std::size_t ahead);
  static void Touch(char* page);
  void GiveTouched(char* page);

  // Bytes handed out and not freed.
  std::size_t used_bytes() const { return used_bytes_; }
  // Bytes of the pages that hold something, and of runs beyond a page.
  std::size_t held_bytes() const;

 private:
  struct Page {
    char* start;
    std::uint32_t used_units;  // bit i: unit i is taken
  };

  // Hole of a page that is cut into grains.
  struct Hole {
    std::uint32_t first;
    std::uint32_t grains;
  };
  struct GrainPage {
    char* start;
    std::vector<Hole> holes;     // by place; never adjacent
    std::uint32_t hole_max = 0;  // no hole is larger
  };

  void MapRegion();
  std::size_t PageOf(const char* start) const;
  static char* TakeFrom(GrainPage* page, std::uint32_t grains);

  std::vector<Page> pages_;          // in the order of mapping
  std::vector<char*> regions_;       // mappings, kRegionBytes each
  std::size_t first_with_room_ = 0;  // no page before it has a free unit
  std::size_t handed_out_ = 0;       // no page from this one on has ever been handed out
  std::size_t touched_ = 0;          // each page before it was taken to be touched, or handed out
  std::vector<GrainPage> grain_pages_;
  std::size_t used_bytes_ = 0;
  std::size_t large_bytes_ = 0;  // of runs beyond a page
};

}  // namespace ps::store
