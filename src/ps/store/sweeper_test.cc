#include "ps/store/sweeper.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

#include "ps/store/test_store.h"

namespace ps::store {
namespace {

TEST_F(EmbeddingStoreTest, APrunedKeySeenAgainIsANewRow) {
  auto store = MakeStore(Spec(8), 2, &budget_, &clock_);
  const auto keys = Range(0, 500);
  const std::vector<float> initial = Gather(store.get(), keys, true);
  const auto fresh = AllRows(*store, 2);
  Push(store.get(), keys);
  EXPECT_NE(Gather(store.get(), keys, false), initial);
  std::uint64_t pruned = 0;
  EXPECT_TRUE(store->PruneStep(3.0f, kAll, &pruned));
  EXPECT_EQ(pruned, 500u);
  EXPECT_EQ(store->CountMissing(keys), 500u);
  EXPECT_EQ(Gather(store.get(), keys, true), initial);
  EXPECT_EQ(AllRows(*store, 2), fresh);
  EXPECT_EQ(store->Stats().created_total, 1'000u);
  EXPECT_EQ(store->Stats().pruned_total, 500u);
}

TEST_F(EmbeddingStoreTest, PruneKeepsRowsAtTheThreshold) {
  auto store = MakeStore(Spec(1), 2, &budget_, &clock_);
  Gather(store.get(), {1, 2}, true);
  Push(store.get(), {2});
  std::uint64_t pruned = 0;
  EXPECT_TRUE(store->PruneStep(1.0f, kAll, &pruned));
  EXPECT_EQ(pruned, 0u);
  EXPECT_TRUE(store->PruneStep(2.0f, kAll, &pruned));
  EXPECT_EQ(pruned, 1u);
  EXPECT_EQ(Count(*store, 2), 2.0f);
}

TEST_F(EmbeddingStoreTest, MemoryOfPrunedRowsIsReused) {
  auto store = MakeStore(Spec(16), 4, &budget_, &clock_);
  Gather(store.get(), Range(0, 20'000), true);
  const TableStats before = store->Stats();
  for (Key round = 1; round <= 5; ++round) {
    std::uint64_t pruned = 0;
    EXPECT_TRUE(store->PruneStep(2.0f, kAll, &pruned));
    EXPECT_EQ(pruned, 20'000u);
    Gather(store.get(), Range(round * 1'000'000, 20'000), true);
  }
  const TableStats after = store->Stats();
  EXPECT_EQ(after.rows, before.rows);
  EXPECT_LE(after.index_bytes, before.index_bytes * 1.1);
}

TEST_F(EmbeddingStoreTest, ABoundedSweepMeetsEachOldRowOnceAndNewRowsAtMostOnce) {
  auto store = MakeStore(Spec(2), 3, &budget_, &clock_);
  Push(store.get(), Range(0, 3'000));  // count 2
  std::mt19937_64 random(5);
  std::set<Key> pushed;
  Key next = 3'000;
  int steps = 0;
  while (!store->DecayStep(0.5f, 50)) {
    ++steps;
    const Key key = random() % 3'000;
    if (pushed.insert(key).second) Push(store.get(), {key});
    Push(store.get(), Range(next, 20));
    next += 20;
    store->Remove(random() % 100 + 2'900);  // makes holes that new rows fill
  }
  EXPECT_GE(steps, 3'000 / 50 - 1);
  for (Key key = 0; key < next; ++key) {
    const float count = Count(*store, key);
    if (count < 0) continue;
    if (key >= 3'000) {
      ASSERT_TRUE(count == 2.0f || count == 1.0f) << key << ": " << count;
    } else if (pushed.contains(key)) {
      ASSERT_TRUE(count == 1.5f || count == 2.0f) << key << ": " << count;
    } else {
      ASSERT_EQ(count, 1.0f) << key;
    }
  }
}

TEST_F(EmbeddingStoreTest, ABoundedPruneInterleavedWithInsertsTakesExactlyTheOldRowsBelow) {
  auto store = MakeStore(Spec(2), 3, &budget_, &clock_);
  Gather(store.get(), Range(0, 4'000), true);
  Push(store.get(), Range(0, 1'000));
  std::uint64_t pruned = 0;
  Key next = 10'000;
  while (!store->PruneStep(2.0f, 64, &pruned)) {
    Push(store.get(), Range(next, 30));  // count 2: stays
    next += 30;
  }
  EXPECT_EQ(pruned, 3'000u);
  EXPECT_EQ(store->CountMissing(Range(0, 1'000)), 0u);
  EXPECT_EQ(store->CountMissing(Range(1'000, 3'000)), 3'000u);
  EXPECT_EQ(store->CountMissing(Range(10'000, next - 10'000)), 0u);
  EXPECT_EQ(AllRows(*store, 3).size(), 1'000 + next - 10'000);
}

TEST_F(EmbeddingStoreTest, AStepHandlesNoMoreRowsThanItMay) {
  auto store = MakeStore(Spec(2), 3, &budget_, &clock_);
  Gather(store.get(), Range(0, 1'000), true);
  std::uint64_t pruned = 0;
  for (std::uint64_t expected = 70; expected < 1'000; expected += 70) {
    ASSERT_FALSE(store->PruneStep(2.0f, 70, &pruned));
    ASSERT_EQ(pruned, expected);
  }
  EXPECT_TRUE(store->PruneStep(2.0f, 70, &pruned));
  EXPECT_EQ(pruned, 1'000u);
}

TEST_F(EmbeddingStoreTest, ASweepOfAnEmptyTableIsOverAtOnce) {
  auto store = MakeStore(Spec(2), 3, &budget_, &clock_);
  std::uint64_t pruned = 0;
  EXPECT_TRUE(store->DecayStep(0.5f, 1));
  EXPECT_TRUE(store->PruneStep(2.0f, 1, &pruned));
  Gather(store.get(), Range(0, 10), true);
  EXPECT_FALSE(store->DecayStep(0.5f, 1));
  store->Clear();
  EXPECT_TRUE(store->DecayStep(0.5f, 1));
}

}  // namespace
}  // namespace ps::store
