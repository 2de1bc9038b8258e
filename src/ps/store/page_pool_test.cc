#include "ps/store/page_pool.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <set>
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
  void* chunk = pool.AllocateChunk();
  pool.FreeChunk(chunk);
  EXPECT_EQ(pool.AllocateChunk(), chunk);
}

TEST(PagePoolTest, ChunksAreDisjointAndAligned) {
  PagePool pool;
  std::set<std::uintptr_t> chunks;
  for (int i = 0; i < 100; ++i) {
    void* chunk = pool.AllocateChunk();
    std::memset(chunk, i, PagePool::kChunkBytes);
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(chunk) % PagePool::kChunkBytes, 0u);
    ASSERT_TRUE(chunks.insert(reinterpret_cast<std::uintptr_t>(chunk)).second);
  }
  EXPECT_EQ(pool.used_bytes(), 100 * PagePool::kChunkBytes);
}

}  // namespace
}  // namespace ps::store
