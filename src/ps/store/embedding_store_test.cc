#include "ps/store/embedding_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "ps/base/hash.h"
#include "ps/base/limits.h"
#include "ps/store/page_pool.h"
#include "ps/store/row_visit.h"
#include "ps/store/test_store.h"

namespace ps::store {
namespace {

TEST_F(EmbeddingStoreTest, WrongSpecificationsAreRefusedWithTheField) {
  const auto refusal = [&](TableSpec spec, int bits = 4) {
    auto store = EmbeddingStore::Create(std::move(spec), bits, &budget_, &clock_);
    return store.ok() ? "accepted" : store.status().message();
  };
  EXPECT_THAT(refusal(Spec(0)), testing::HasSubstr("dim is 0"));
  EXPECT_THAT(refusal(Spec(limits::kEmbeddingDimMax + 1)), testing::HasSubstr("dim is 65537"));
  EXPECT_THAT(refusal(Spec(4, {"adagard", {}})), testing::HasSubstr("adagard"));
  EXPECT_THAT(refusal(Spec(4), 17), testing::HasSubstr("partition_bits is 17"));
  TableSpec nan_scale = Spec(4);
  nan_scale.initializer.scale = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(refusal(nan_scale), testing::HasSubstr("scale"));
  TableSpec nameless = Spec(4);
  nameless.name.clear();
  EXPECT_THAT(refusal(nameless), testing::HasSubstr("name"));
  EXPECT_EQ(refusal(Spec(limits::kEmbeddingDimMax, {"adam", {{"amsgrad", 1.0}}})), "accepted");
}

TEST_F(EmbeddingStoreTest, InsertThenFindSurvivesGrowthOverManySplits) {
  auto store = MakeStore(Spec(4), 2, &budget_, &clock_);
  const std::vector<float> first = Gather(store.get(), Range(0, 100), true);
  for (Key key = 100; key < 60'000; key += 777) Gather(store.get(), Range(key, 777), true);
  EXPECT_EQ(Gather(store.get(), Range(0, 100), false), first);
  EXPECT_EQ(store->CountMissing(Range(0, 60'000)), 0u);
  EXPECT_EQ(AllRows(*store, 2).size(), store->Stats().rows);
}

TEST_F(EmbeddingStoreTest, StreamedRowsAreTheSame) {
  const std::vector<Key> keys = Range(0, 300);
  std::vector<std::uint32_t> positions(keys.size());
  std::iota(positions.rbegin(), positions.rend(), 0);
  for (const std::uint32_t dim : {3, 16, 48, 64}) {
    auto store = MakeStore(Spec(dim), 2, &budget_, &clock_);
    Gather(store.get(), keys, true);
    const auto gathered = [&](std::size_t shift, EmbeddingStore::Stores stores) {
      std::vector<float> memory(keys.size() * dim + 32);
      void* aligned = memory.data();
      std::size_t room = memory.size() * sizeof(float);
      auto* out = static_cast<float*>(std::align(64, keys.size() * dim * 4, aligned, room)) + shift;
      store->Gather(keys, positions.data(), false, nullptr, out, stores);
      return std::vector<float>(out, out + keys.size() * dim);
    };
    const auto cached = gathered(0, EmbeddingStore::Stores::kCached);
    EXPECT_NE(cached.front(), cached.back());
    EXPECT_EQ(gathered(0, EmbeddingStore::Stores::kStreamed), cached) << dim;
    EXPECT_EQ(gathered(1, EmbeddingStore::Stores::kStreamed), cached) << dim;
  }
}

TEST_F(EmbeddingStoreTest, RoomMadeBeforehandChangesNoRow) {
  auto store = MakeStore(Spec(4), 2, &budget_, &clock_);
  const std::vector<float> first = Gather(store.get(), Range(0, 100), true);
  for (PartitionId partition = 0; partition < 4; ++partition) store->MakeRoom(partition, 1'000);
  EXPECT_EQ(Gather(store.get(), Range(0, 100), false), first);
  EXPECT_EQ(store->Stats().rows, 100u);
  const std::size_t index_bytes = store->Stats().index_bytes;
  Gather(store.get(), Range(100, 900), true);
  EXPECT_LE(store->Stats().index_bytes, index_bytes + 900 * 16);
  EXPECT_EQ(AllRows(*store, 2).size(), 1'000u);
}

TEST_F(EmbeddingStoreTest, CountIsOneAtCreationAndOneMoreForEachPush) {
  auto store = MakeStore(Spec(4), 4, &budget_, &clock_);
  Gather(store.get(), {1}, true);
  EXPECT_EQ(Count(*store, 1), 1.0f);
  Gather(store.get(), {1}, true);
  EXPECT_EQ(Count(*store, 1), 1.0f);
  Push(store.get(), {1, 2});
  EXPECT_EQ(Count(*store, 1), 2.0f);
  EXPECT_EQ(Count(*store, 2), 2.0f);  // made by the push: one for each
}

TEST_F(EmbeddingStoreTest, LastDayIsThatOfTheLastPush) {
  auto store = MakeStore(Spec(4), 4, &budget_, &clock_);
  const auto last_day = [&](Key key) {
    const RowHeader* header = nullptr;
    const float* values = nullptr;
    EXPECT_TRUE(store->Find(key, &header, &values));
    return header->last_day;
  };
  Push(store.get(), {1});
  clock_.SetToday(20'003);
  Gather(store.get(), {1, 2}, true);
  EXPECT_EQ(last_day(1), 20'000u);
  EXPECT_EQ(last_day(2), 20'003u);
  Push(store.get(), {1});
  EXPECT_EQ(last_day(1), 20'003u);
}

TEST_F(EmbeddingStoreTest, MissingKeysWithoutCreateAreZerosAndMakeNothing) {
  auto store = MakeStore(Spec(3), 4, &budget_, &clock_);
  EXPECT_EQ(Gather(store.get(), {5, 6, 5}, false), std::vector<float>(9, 0.0f));
  EXPECT_EQ(store->Stats().rows, 0u);
  EXPECT_EQ(store->Stats().created_total, 0u);
}

TEST_F(EmbeddingStoreTest, AKeyRepeatedInOneGatherIsMadeOnce) {
  auto store = MakeStore(Spec(3), 4, &budget_, &clock_);
  const std::vector<Key> keys(1'000, 9);
  EXPECT_EQ(store->CountMissing(keys), 1u);
  const std::vector<float> out = Gather(store.get(), keys, true);
  EXPECT_EQ(store->Stats().created_total, 1u);
  for (std::size_t i = 3; i < out.size(); ++i) ASSERT_EQ(out[i], out[i - 3]);
}

TEST_F(EmbeddingStoreTest, NewRowsDependOnSeedTableAndKeyAlone) {
  auto a = MakeStore(Spec(16), 0, &budget_, &clock_);
  auto b = MakeStore(Spec(16), 12, &budget_, &clock_);
  auto keys = Range(1'000, 3'000);
  Gather(a.get(), keys, true);
  std::shuffle(keys.begin(), keys.end(), std::mt19937_64(3));
  Push(b.get(), {1'500});  // made by a push rather than a pull, then made again
  b->Remove(1'500);
  for (const Key key : keys) Gather(b.get(), {key}, true);
  EXPECT_EQ(AllRows(*a, 0), AllRows(*b, 12));

  TableSpec other_seed = Spec(16);
  other_seed.seed = 43;
  TableSpec other_name = Spec(16);
  other_name.name = "user";
  for (const TableSpec& spec : {other_seed, other_name}) {
    auto c = MakeStore(spec, 0, &budget_, &clock_);
    EXPECT_NE(Gather(c.get(), {1'000}, true), Gather(a.get(), {1'000}, true));
  }
}

TEST_F(EmbeddingStoreTest, MemoryStatsAddUpToWhatIsHeld) {
  auto pool = std::make_shared<PagePool>();
  auto created = EmbeddingStore::Create(Spec(16), 4, &budget_, &clock_, pool);
  ASSERT_TRUE(created.ok());
  EmbeddingStore& store = *created.value();
  const auto check = [&] {
    const TableStats stats = store.Stats();
    EXPECT_EQ(stats.values_bytes, stats.rows * (16 + 16 * 4));
    EXPECT_EQ(stats.state_bytes, stats.rows * 16 * 4);
    // Only the index blocks below one chunk, and bookkeeping, come from outside the pool.
    const std::size_t total = stats.values_bytes + stats.state_bytes + stats.index_bytes;
    EXPECT_GE(total, pool->used_bytes());
    EXPECT_LE(total, pool->used_bytes() + 4'096 + stats.rows * 4);
  };
  check();
  Gather(&store, Range(0, 30'000), true);
  check();
  EXPECT_GT(pool->used_bytes(), 30'000u * 144);
  store.Clear();
  check();
  EXPECT_EQ(store.Stats().rows, 0u);
  EXPECT_EQ(pool->used_bytes(), 0u);
  created.value().reset();
  EXPECT_EQ(pool->used_bytes(), 0u);
}

TEST_F(EmbeddingStoreTest, ALargeTableCostsAtMost32BytesARowBeyondValuesAndState) {
  auto store = MakeStore(Spec(16), 4, &budget_, &clock_);
  Gather(store.get(), Range(0, 100'000), true);
  const TableStats stats = store->Stats();
  const double total =
      static_cast<double>(stats.values_bytes + stats.state_bytes + stats.index_bytes);
  EXPECT_LE(total / static_cast<double>(stats.rows) - 2 * 16 * 4, 32.0);
}

TEST_F(EmbeddingStoreTest, RowsGoBackToTheBudgetHoweverTheyGo) {
  {
    auto store = MakeStore(Spec(4), 4, &budget_, &clock_);
    Gather(store.get(), Range(0, 100), true);
    Push(store.get(), Range(0, 40));
    EXPECT_EQ(budget_.used(), 100u);
    EXPECT_TRUE(store->Remove(0));
    EXPECT_FALSE(store->Remove(0));
    EXPECT_EQ(budget_.used(), 99u);
    std::uint64_t pruned = 0;
    EXPECT_TRUE(store->PruneStep(2.0f, kAll, &pruned));
    EXPECT_EQ(budget_.used(), 39u);
    store->Clear();
    EXPECT_EQ(budget_.used(), 0u);
    Gather(store.get(), Range(0, 10), true);
  }
  EXPECT_EQ(budget_.used(), 0u);
}

TEST_F(EmbeddingStoreTest, WhatIsNotNeededStaysReserved) {
  auto store = MakeStore(Spec(4), 4, &budget_, &clock_);
  Gather(store.get(), {1}, true);
  std::size_t reserved = 5;
  ASSERT_TRUE(budget_.TryReserve(reserved));
  const std::vector<Key> keys{1, 2, 3, 2};
  std::vector<float> out(16);
  store->Gather(keys, nullptr, true, &reserved, out.data());
  EXPECT_EQ(reserved, 3u);
}

// The key whose hash with the table's salt is `hash`: Mix64 backwards.
Key KeyOfHash(std::uint64_t salt, std::uint64_t hash) {
  const auto inverse = [](std::uint64_t odd) {
    std::uint64_t x = odd;
    for (int i = 0; i < 6; ++i) x *= 2 - odd * x;
    return x;
  };
  std::uint64_t x = hash;
  x ^= x >> 31 ^ x >> 62;
  x *= inverse(0x94d049bb133111ebull);
  x ^= x >> 27 ^ x >> 54;
  x *= inverse(0xbf58476d1ce4e5b9ull);
  x ^= x >> 30 ^ x >> 60;
  return (x - 0x9e3779b97f4a7c15ull) ^ salt;
}

TEST_F(EmbeddingStoreTest, KeysThatShareBucketAndTagAreToldApart) {
  const TableSpec spec = Spec(4);
  const std::uint64_t salt = HashBytes(spec.name);
  std::vector<Key> keys;
  for (std::uint64_t i = 0; i < 1'200; ++i) {
    // One partition; a third of the keys share all that the index sees, a third the tag.
    const std::uint64_t low = i % 3 == 0 ? 0x80000042u : i % 3 == 1 ? i << 12 | 0x42 : i << 20 | i;
    const std::uint64_t hash = i << 32 | (low & 0xffffffffu);
    keys.push_back(KeyOfHash(salt, hash));
    ASSERT_EQ(HashKey(salt, keys.back()), hash);
  }
  auto store = MakeStore(spec, 12, &budget_, &clock_);
  const std::vector<float> out = Gather(store.get(), keys, true);
  EXPECT_EQ(store->Stats().rows, keys.size());
  EXPECT_EQ(Gather(store.get(), keys, false), out);
  for (std::size_t i = 0; i < keys.size(); i += 2) ASSERT_TRUE(store->Remove(keys[i]));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    ASSERT_EQ(Count(*store, keys[i]), i % 2 == 0 ? -1.0f : 1.0f);
  }
  EXPECT_EQ(Gather(store.get(), keys, true), out);
}

TEST_F(EmbeddingStoreTest, ABatchOfAnySizeMeetsTheRowsThatItsKeysMeetAlone) {
  std::mt19937_64 random(5);
  auto batched = MakeStore(Spec(3), 4, &budget_, &clock_);
  auto single = MakeStore(Spec(3), 4, &budget_, &clock_);
  for (const std::size_t size : {1, 7, 8, 24, 25}) {
    for (const std::size_t blocks : {0, 1, 2}) {
      std::vector<Key> keys(blocks * kVisitBlock + size - (blocks == 0 ? 0 : 8));
      // Repeated and new ones beside some that are there, in tables that grow from batch to batch.
      for (Key& key : keys) key = random() % 9'000;
      std::set<Key> missing;
      for (Key key : keys) {
        if (Count(*single, key) < 0) missing.insert(key);
      }
      EXPECT_EQ(batched->CountMissing(keys), missing.size());
      std::vector<float> alone;
      const bool create = random() % 4 != 0;
      for (Key key : keys) {
        const std::vector<float> row = Gather(single.get(), {key}, create);
        alone.insert(alone.end(), row.begin(), row.end());
      }
      EXPECT_EQ(Gather(batched.get(), keys, create), alone) << keys.size();

      std::sort(keys.begin(), keys.end());
      keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
      std::shuffle(keys.begin(), keys.end(), random);
      Push(batched.get(), keys);
      for (Key key : keys) Push(single.get(), {key});
      EXPECT_EQ(AllRows(*batched, 4), AllRows(*single, 4)) << keys.size();
    }
  }
}

TEST_F(EmbeddingStoreTest, ExtremeKeysAreOrdinary) {
  auto store = MakeStore(Spec(4), 4, &budget_, &clock_);
  const std::uint64_t salt = HashBytes(store->spec().name);
  const std::vector<Key> keys{
      0, ~Key{0}, kNullKey, salt, Key{1} << 63, KeyOfHash(salt, 0), KeyOfHash(salt, ~0ull)};
  Push(store.get(), keys);
  EXPECT_EQ(store->Stats().rows, keys.size());
  for (const Key key : keys) EXPECT_EQ(Count(*store, key), 2.0f);
}

// ---- sweeps in steps, with other work between them ----

TEST_F(EmbeddingStoreTest, TablesOfOneShardShareItsPages) {
  auto pool = std::make_shared<PagePool>();
  std::vector<std::unique_ptr<EmbeddingStore>> stores;
  for (int i = 0; i < 30; ++i) {
    TableSpec spec = Spec(8 + i % 3);
    spec.name = "table" + std::to_string(i);
    auto store = EmbeddingStore::Create(spec, 12, &budget_, &clock_, pool);
    ASSERT_TRUE(store.ok());
    stores.push_back(std::move(store).value());
  }
  for (auto& store : stores) Gather(store.get(), Range(0, 500), true);
  EXPECT_LE(pool->held_bytes(), 14 * PagePool::kPageBytes);
  for (auto& store : stores) {
    EXPECT_EQ(Gather(store.get(), Range(0, 500), true), Gather(store.get(), Range(0, 500), false));
  }
}

}  // namespace
}  // namespace ps::store
