#include "ps/store/page_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdio>
#include <cstdlib>

namespace ps::store {
namespace {

// Address space is taken 64 MiB at a time, so that a large shard stays far from the system's limit
// on mappings; memory itself comes with the first touch of each page.
constexpr std::size_t kRegionBytes = std::size_t{64} << 20;
constexpr std::size_t kPagesPerRegion = kRegionBytes / PagePool::kPageBytes;

[[noreturn]] void OutOfMemory(std::size_t bytes) {
  std::fprintf(stderr, "pyspark_ps: the system refused %zu bytes of memory for embedding rows\n",
               bytes);
  std::abort();
}

// Fresh address space of whole pages, aligned to a page.
char* MapAligned(std::size_t bytes) {
  constexpr std::size_t kPage = PagePool::kPageBytes;
  void* mapped = mmap(nullptr, bytes + kPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) OutOfMemory(bytes);
  char* raw = static_cast<char*>(mapped);
  const std::size_t before = (kPage - reinterpret_cast<std::uintptr_t>(raw) % kPage) % kPage;
  if (before > 0) munmap(raw, before);
  munmap(raw + before + bytes, kPage - before);
  return raw + before;
}

std::size_t WholePages(std::size_t bytes) {
  return (bytes + PagePool::kPageBytes - 1) / PagePool::kPageBytes * PagePool::kPageBytes;
}

std::uint32_t RunMask(int units) {
  return units == 32 ? ~std::uint32_t{0} : (std::uint32_t{1} << units) - 1;
}

// The lowest position of `units` clear bits in a row, or -1.
int FindRun(std::uint32_t used, int units) {
  const std::uint32_t mask = RunMask(units);
  for (int start = 0; start + units <= PagePool::kUnitsPerPage; ++start) {
    if ((used & (mask << start)) == 0) return start;
  }
  return -1;
}

}  // namespace

PagePool::~PagePool() {
  for (char* region : regions_) munmap(region, kRegionBytes);
}

void PagePool::MapRegion() {
  char* region = MapAligned(kRegionBytes);
  // The first page of a pool stays in 4 KiB pages: a shard with little to hold takes little. A
  // system that knows no huge pages refuses the advice, which costs speed alone.
  const std::size_t plain = regions_.empty() ? kPageBytes : 0;
  (void)madvise(region + plain, kRegionBytes - plain, MADV_HUGEPAGE);

  regions_.push_back(region);
  for (std::size_t i = 0; i < kPagesPerRegion; ++i) {
    pages_.push_back(Page{region + i * kPageBytes, 0});
  }
}

char* PagePool::AllocateUnits(int units) {
  assert(units >= 1 && units <= kUnitsPerPage);
  while (first_with_room_ < pages_.size() && ~pages_[first_with_room_].used_units == 0) {
    ++first_with_room_;
  }
  for (std::size_t i = first_with_room_;; ++i) {
    if (i == pages_.size()) MapRegion();
    Page& page = pages_[i];
    const int start = FindRun(page.used_units, units);
    if (start < 0) continue;
    page.used_units |= RunMask(units) << start;
    handed_out_ = std::max(handed_out_, i + 1);
    used_bytes_ += units * kUnitBytes;
    return page.start + start * kUnitBytes;
  }
}

char* PagePool::TakeUntouched(std::size_t ahead) {
  touched_ = std::max(touched_, handed_out_);
  if (touched_ >= handed_out_ + std::min(ahead, handed_out_ / 4)) return nullptr;
  if (touched_ == pages_.size()) MapRegion();
  Page& page = pages_[touched_++];
  page.used_units = RunMask(kUnitsPerPage);
  return page.start;
}

// By writing: MADV_POPULATE_WRITE keeps other threads from mapping and unmapping meanwhile.
void PagePool::Touch(char* page) {
  constexpr std::size_t kSystemPageBytesMin = 4'096;
  for (std::size_t at = 0; at < kPageBytes; at += kSystemPageBytesMin) {
    static_cast<volatile char*>(page)[at] = 0;
  }
}

void PagePool::GiveTouched(char* page) {
  const std::size_t index = PageOf(page);
  pages_[index].used_units = 0;
  first_with_room_ = std::min(first_with_room_, index);
}

std::size_t PagePool::PageOf(const char* start) const {
  for (std::size_t region = 0; region < regions_.size(); ++region) {
    const auto offset = static_cast<std::size_t>(start - regions_[region]);
    if (start >= regions_[region] && offset < kRegionBytes) {
      return region * kPagesPerRegion + offset / kPageBytes;
    }
  }
  assert(false);
  return 0;
}

void PagePool::FreeUnits(char* start, int units) {
  const std::size_t index = PageOf(start);
  Page& page = pages_[index];
  const int first = static_cast<int>((start - page.start) / kUnitBytes);
  const std::uint32_t mask = RunMask(units) << first;
  assert((page.used_units & mask) == mask);
  page.used_units &= ~mask;
  used_bytes_ -= units * kUnitBytes;
  first_with_room_ = std::min(first_with_room_, index);
  if (page.used_units == 0) (void)madvise(page.start, kPageBytes, MADV_DONTNEED);
}

char* PagePool::TakeFrom(GrainPage* page, std::uint32_t grains) {
  if (page->hole_max < grains) return nullptr;
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < page->holes.size(); ++i) {
    Hole& hole = page->holes[i];
    if (hole.grains < grains) {
      largest = std::max(largest, hole.grains);
      continue;
    }
    char* start = page->start + hole.first * kGrainBytes;
    hole.first += grains;
    hole.grains -= grains;
    if (hole.grains == 0) page->holes.erase(page->holes.begin() + static_cast<std::ptrdiff_t>(i));
    return start;
  }
  page->hole_max = largest;
  return nullptr;
}

void* PagePool::AllocateGrains(std::size_t grains) {
  assert(grains >= 1);
  used_bytes_ += grains * kGrainBytes;
  if (grains > kGrainsPerPage) {
    const std::size_t bytes = WholePages(grains * kGrainBytes);
    char* start = MapAligned(bytes);
    (void)madvise(start, bytes, MADV_HUGEPAGE);
    large_bytes_ += bytes;
    return start;
  }
  const auto wanted = static_cast<std::uint32_t>(grains);
  for (GrainPage& page : grain_pages_) {
    if (char* start = TakeFrom(&page, wanted)) return start;
  }
  char* page = AllocateUnits(kUnitsPerPage);
  used_bytes_ -= kPageBytes;
  grain_pages_.push_back(GrainPage{page, {Hole{0, kGrainsPerPage}}, kGrainsPerPage});
  return TakeFrom(&grain_pages_.back(), wanted);
}

void PagePool::FreeGrains(void* start, std::size_t grains) {
  used_bytes_ -= grains * kGrainBytes;
  if (grains > kGrainsPerPage) {
    const std::size_t bytes = WholePages(grains * kGrainBytes);
    munmap(start, bytes);
    large_bytes_ -= bytes;
    return;
  }
  char* at = static_cast<char*>(start);
  const auto page =
      std::find_if(grain_pages_.begin(), grain_pages_.end(),
                   [at](const GrainPage& p) { return at >= p.start && at < p.start + kPageBytes; });
  assert(page != grain_pages_.end());
  Hole hole{static_cast<std::uint32_t>((at - page->start) / kGrainBytes),
            static_cast<std::uint32_t>(grains)};
  std::vector<Hole>& holes = page->holes;
  auto next =
      std::find_if(holes.begin(), holes.end(), [&](const Hole& h) { return h.first > hole.first; });
  if (next != holes.end() && hole.first + hole.grains == next->first) {
    hole.grains += next->grains;
    next = holes.erase(next);
  }
  if (next != holes.begin() && (next - 1)->first + (next - 1)->grains == hole.first) {
    (next - 1)->grains += hole.grains;
    hole = *(next - 1);
  } else {
    holes.insert(next, hole);
  }
  page->hole_max = std::max(page->hole_max, hole.grains);
  if (hole.grains < kGrainsPerPage) return;
  used_bytes_ += kPageBytes;
  FreeUnits(page->start, kUnitsPerPage);
  grain_pages_.erase(page);
}

std::size_t PagePool::held_bytes() const {
  const auto used = std::count_if(pages_.begin(), pages_.end(),
                                  [](const Page& page) { return page.used_units != 0; });
  return static_cast<std::size_t>(used) * kPageBytes + large_bytes_;
}

}  // namespace ps::store
