#include "ps/store/page_pool.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace ps::store {
namespace {

TEST(PagePoolTest, RunsAreAlignedDisjointAndInsideOnePage) {
  PagePool pool;
  std::mt19937_64 random(1);
  struct Run {
    char* start;
    int units;
  };
  std::vector<Run> runs;
  std::set<std::uintptr_t> taken;  // unit addresses
  const auto each_unit = [](const Run& run, auto&& fn) {
    for (int i = 0; i < run.units; ++i) {
      fn(reinterpret_cast<std::uintptr_t>(run.start) + i * PagePool::kUnitBytes);
    }
  };
  for (int step = 0; step < 2000; ++step) {
    if (runs.empty() || random() % 5 < 3) {
      const int units = static_cast<int>(random() % PagePool::kUnitsPerPage) + 1;
      const Run run{pool.AllocateUnits(units), units};
      const auto start = reinterpret_cast<std::uintptr_t>(run.start);
      ASSERT_EQ(start % PagePool::kUnitBytes, 0u);
      ASSERT_EQ(start / PagePool::kPageBytes,
                (start + units * PagePool::kUnitBytes - 1) / PagePool::kPageBytes);
      each_unit(run, [&](std::uintptr_t unit) { ASSERT_TRUE(taken.insert(unit).second); });
      runs.push_back(run);
    } else {
      std::swap(runs[random() % runs.size()], runs.back());
      each_unit(runs.back(), [&](std::uintptr_t unit) { taken.erase(unit); });
      pool.FreeUnits(runs.back().start, runs.back().units);
      runs.pop_back();
    }
    ASSERT_EQ(pool.used_bytes(), taken.size() * PagePool::kUnitBytes);
    ASSERT_GE(pool.held_bytes(), pool.used_bytes());
  }
  for (const Run& run : runs) pool.FreeUnits(run.start, run.units);
  EXPECT_EQ(pool.used_bytes(), 0u);
  EXPECT_EQ(pool.held_bytes(), 0u);
}

TEST(PagePoolTest, FreedMemoryIsHandedOutAgain) {
  PagePool pool;
  char* first = pool.AllocateUnits(3);
  std::memset(first, 1, 3 * PagePool::kUnitBytes);
  pool.FreeUnits(first, 3);
  EXPECT_EQ(pool.AllocateUnits(3), first);
  void* run = pool.AllocateGrains(5);
  pool.FreeGrains(run, 5);
  EXPECT_EQ(pool.AllocateGrains(5), run);
}

TEST(PagePoolTest, RunsOfGrainsNeverOverlapAndTheirHolesJoin) {
  PagePool pool;
  std::mt19937_64 random(2);
  std::map<std::uintptr_t, std::size_t> runs;  // start -> grains
  std::size_t grains = 0;
  for (int step = 0; step < 5'000; ++step) {
    if (runs.empty() || random() % 5 < 3) {
      const std::size_t wanted = step % 500 == 0 ? 3'000 : random() % 100 + 1;
      void* memory = pool.AllocateGrains(wanted);
      std::memset(memory, 1, wanted * PagePool::kGrainBytes);
      const auto start = reinterpret_cast<std::uintptr_t>(memory);
      ASSERT_EQ(start % PagePool::kGrainBytes, 0u);
      const auto [at, inserted] = runs.emplace(start, wanted);
      ASSERT_TRUE(inserted);
      if (at != runs.begin()) {
        ASSERT_LE(std::prev(at)->first + std::prev(at)->second * PagePool::kGrainBytes, start);
      }
      if (std::next(at) != runs.end()) {
        ASSERT_LE(start + wanted * PagePool::kGrainBytes, std::next(at)->first);
      }
      grains += wanted;
    } else {
      const auto victim = std::next(runs.begin(), static_cast<long>(random() % runs.size()));
      pool.FreeGrains(reinterpret_cast<void*>(victim->first), victim->second);
      grains -= victim->second;
      runs.erase(victim);
    }
    ASSERT_EQ(pool.used_bytes(), grains * PagePool::kGrainBytes);
  }
  EXPECT_LE(pool.held_bytes(), 2 * pool.used_bytes());
  for (const auto& [start, n] : runs) pool.FreeGrains(reinterpret_cast<void*>(start), n);
  EXPECT_EQ(pool.held_bytes(), 0u);
}

TEST(PagePoolTest, SegmentsThatGrowEachAtItsTimeLeaveFewHoles) {
  PagePool pool;
  std::mt19937_64 random(3);
  std::vector<std::pair<void*, std::size_t>> segments(512, {nullptr, 0});
  for (int step = 0; step < 9'000; ++step) {
    auto& [memory, grains] = segments[random() % segments.size()];
    if (grains > 0) pool.FreeGrains(memory, grains);
    grains += std::max<std::size_t>(1, grains / 8);
    memory = pool.AllocateGrains(grains);
  }
  EXPECT_LE(static_cast<double>(pool.held_bytes()), 1.4 * static_cast<double>(pool.used_bytes()));
}

TEST(PagePoolTest, PagesToComeAreTouchedOnceAndAtMostAQuarterAhead) {
  PagePool pool;
  const auto allocate = [&] { return pool.AllocateUnits(PagePool::kUnitsPerPage); };
  EXPECT_EQ(pool.TakeUntouched(9), nullptr) << "of an empty pool";
  for (int page = 0; page < 10; ++page) (void)allocate();
  char* const first = pool.TakeUntouched(9);
  char* const second = pool.TakeUntouched(9);
  ASSERT_NE(first, nullptr);
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(pool.TakeUntouched(9), nullptr) << "2 of 10";
  pool.GiveTouched(second);
  EXPECT_EQ(allocate(), second) << "the first is being touched";
  pool.GiveTouched(first);
  EXPECT_EQ(allocate(), first);
  EXPECT_EQ(pool.held_bytes(), 12 * PagePool::kPageBytes);
  char* const third = pool.TakeUntouched(1);
  EXPECT_NE(third, nullptr);
  EXPECT_EQ(pool.TakeUntouched(1), nullptr);
  pool.GiveTouched(third);
  EXPECT_EQ(pool.TakeUntouched(1), nullptr) << "it is ready, not in use";
  EXPECT_EQ(pool.used_bytes(), 12 * PagePool::kPageBytes);
}

TEST(PagePoolTest, ATouchedPageHasItsMemory) {
  PagePool pool;
  for (int page = 0; page < 4; ++page) (void)pool.AllocateUnits(PagePool::kUnitsPerPage);
  char* const page = pool.TakeUntouched(1);
  ASSERT_NE(page, nullptr);
  std::vector<unsigned char> in_memory(PagePool::kPageBytes / sysconf(_SC_PAGESIZE));
  const auto count = [&] {
    EXPECT_EQ(mincore(page, PagePool::kPageBytes, in_memory.data()), 0);
    return std::count_if(in_memory.begin(), in_memory.end(), [](int c) { return (c & 1) != 0; });
  };
  ASSERT_EQ(count(), 0);
  PagePool::Touch(page);
  EXPECT_EQ(count(), in_memory.size());
}

}  // namespace
}  // namespace ps::store
