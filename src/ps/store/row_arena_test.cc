#include "ps/store/row_arena.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <random>
#include <vector>

#include "ps/base/limits.h"

namespace ps::store {
namespace {

void MakeLive(RowArena* arena, RowNumber row, Key key) {
  RowHeader* header = arena->Header(row);
  std::memset(static_cast<void*>(header), 0xab, arena->stride_bytes());
  *header = RowHeader{key, 1.0f, 0};
}

std::map<Key, RowNumber> LiveRows(const RowArena& arena, const RowChain& chain) {
  std::map<Key, RowNumber> rows;
  chain.ForEachLive(arena, [&](RowNumber row, const RowHeader* header) {
    EXPECT_TRUE(rows.emplace(header->key, row).second);
  });
  return rows;
}

class RowArenaStrideTest : public testing::TestWithParam<std::size_t> {};

TEST_P(RowArenaStrideTest, RowsOfManyChainsNeverOverlap) {
  PagePool pool;
  RowArena arena(&pool, GetParam());
  std::mt19937_64 random(1);
  constexpr int kChains = 5;
  RowChain chains[kChains];
  std::map<Key, RowNumber> expected[kChains];
  Key next = 1;
  const int steps = GetParam() > 10'000 ? 300 : 20'000;
  for (int step = 0; step < steps; ++step) {
    const std::size_t c = random() % kChains;
    if (expected[c].empty() || random() % 3 != 0) {
      const RowNumber row = chains[c].AllocateRow(&arena);
      MakeLive(&arena, row, next);
      expected[c][next++] = row;
    } else {
      auto victim = expected[c].lower_bound(random() % next);
      if (victim == expected[c].end()) victim = expected[c].begin();
      const std::size_t slab = chains[c].SlabOf(victim->second);
      chains[c].FreeRow(&arena, slab, victim->second);
      if (chains[c].slabs()[slab].live == 0) chains[c].EraseSlab(&arena, slab);
      expected[c].erase(victim);
    }
  }
  for (int c = 0; c < kChains; ++c) {
    EXPECT_EQ(LiveRows(arena, chains[c]), expected[c]);
    EXPECT_EQ(chains[c].rows(), expected[c].size());
  }
}

INSTANTIATE_TEST_SUITE_P(Strides, RowArenaStrideTest,
                         testing::Values(32, 144, 1'040, 9'008, 70'000, 300'000, 1'048'624));

TEST(RowArenaTest, SlabsGivenBackServeOtherChains) {
  PagePool pool;
  RowArena arena(&pool, 144);
  RowChain first;
  for (Key key = 0; key < 5'000; ++key) MakeLive(&arena, first.AllocateRow(&arena), key);
  while (!first.slabs().empty()) {
    const RowChain::Slab slab = first.slabs().back();
    for (RowNumber row = slab.first; row < slab.first + slab.used; ++row) {
      first.FreeRow(&arena, first.slabs().size() - 1, row);
    }
    first.EraseSlab(&arena, first.slabs().size() - 1);
  }
  EXPECT_EQ(first.memory_bytes(), 0u);
  const std::size_t used = pool.used_bytes();
  RowChain second;
  for (Key key = 0; key < 4'900; ++key) MakeLive(&arena, second.AllocateRow(&arena), key);
  EXPECT_EQ(pool.used_bytes(), used);
  EXPECT_EQ(LiveRows(arena, second).size(), 4'900u);
}

TEST(RowArenaTest, AFewRowsInEachOfManyPartitionsTakeLittle) {
  PagePool pool;
  RowArena arena(&pool, 144);
  std::vector<RowChain> chains(4'096);
  for (RowChain& chain : chains) MakeLive(&arena, chain.AllocateRow(&arena), 1);
  EXPECT_LE(pool.used_bytes(), chains.size() * 600);
}

TEST(RowArenaTest, ClearGivesAllMemoryBack) {
  PagePool pool;
  RowArena arena(&pool, 144);
  RowChain chain;
  for (Key key = 0; key < 50'000; ++key) MakeLive(&arena, chain.AllocateRow(&arena), key);
  arena.Clear();
  EXPECT_EQ(pool.used_bytes(), 0u);
}

}  // namespace
}  // namespace ps::store
