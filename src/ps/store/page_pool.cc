#include "ps/store/page_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdio>
#include <cstdlib>

namespace ps::store {
namespace {

// Address space is taken 64 MiB at a time, so that a large shard stays far from the system's limit on
// mappings; memory itself comes with the first touch of each page.
constexpr std::size_t kRegionBytes = std::size_t{64} << 20;
constexpr std::size_t kPagesPerRegion = kRegionBytes / PagePool::kPageBytes;

[[noreturn]] void OutOfMemory(std::size_t bytes) {
  std::fprintf(stderr, "pyspark_ps: the system refused %zu bytes of memory for embedding rows\n",
               bytes);
  std::abort();
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
  const std::size_t wanted = kRegionBytes + kPageBytes;
  void* mapped = mmap(nullptr, wanted, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) OutOfMemory(wanted);
  char* raw = static_cast<char*>(mapped);
  const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(raw) % kPageBytes;
  const std::size_t before = misaligned == 0 ? 0 : kPageBytes - misaligned;
  const std::size_t after = kPageBytes - before;
  if (before > 0) munmap(raw, before);
  char* region = raw + before;
  if (after > 0) munmap(region + kRegionBytes, after);

  // The first page of a pool stays in 4 KiB pages: a shard with little to hold takes little. A system
  // that knows no huge pages refuses the advice, which costs speed alone.
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
    used_bytes_ += units * kUnitBytes;
    return page.start + start * kUnitBytes;
  }
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

void* PagePool::AllocateChunk() {
  if (free_chunks_.empty()) {
    char* unit = AllocateUnits(1);
    used_bytes_ -= kUnitBytes;
    for (std::size_t offset = kUnitBytes; offset > 0; offset -= kChunkBytes) {
      free_chunks_.push_back(unit + offset - kChunkBytes);
    }
  }
  void* chunk = free_chunks_.back();
  free_chunks_.pop_back();
  used_bytes_ += kChunkBytes;
  return chunk;
}

void PagePool::FreeChunk(void* chunk) {
  free_chunks_.push_back(chunk);
  used_bytes_ -= kChunkBytes;
}

std::size_t PagePool::held_bytes() const {
  const auto used = std::count_if(pages_.begin(), pages_.end(),
                                  [](const Page& page) { return page.used_units != 0; });
  return static_cast<std::size_t>(used) * kPageBytes;
}

}  // namespace ps::store
