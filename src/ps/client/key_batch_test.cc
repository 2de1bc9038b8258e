#include "ps/client/key_batch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "ps/base/hash.h"

namespace ps::client {
namespace {

using ::testing::ElementsAre;

sharding::PartitionMap MapOf(std::uint32_t servers) {
  sharding::PartitionMap map;
  map.partition_bits = 6;
  map.server_count = servers;
  for (std::uint32_t p = 0; p < 64; ++p) map.owner.push_back(p % servers);
  return map;
}

std::vector<Key> KeysWithRepeats(std::size_t count, std::size_t distinct, unsigned seed) {
  std::mt19937_64 random(seed);
  std::vector<Key> pool(distinct), keys(count);
  for (Key& key : pool) key = random();
  for (Key& key : keys) key = pool[random() % distinct];
  return keys;
}

constexpr std::uint64_t kSalt = 77;

TEST(KeyBatchTest, DistinctKeysOfOneServerStayWhereTheyAre) {
  std::vector<Key> keys = {9, 3, 7};
  KeyTable table;
  KeyBatch batch;
  batch.Build(MapOf(1), kSalt, keys, &table);
  EXPECT_EQ(batch.keys().data(), keys.data());
  EXPECT_TRUE(batch.is_identity());
  EXPECT_TRUE(batch.repeats().empty());
}

TEST(KeyBatchTest, AnEmptyCallHasNoKeysOnAnyServer) {
  KeyTable table;
  KeyBatch batch;
  batch.Build(MapOf(3), kSalt, {}, &table);
  EXPECT_EQ(batch.begin(0), 0u);
  EXPECT_EQ(batch.begin(3), 0u);
}

class KeyBatchPropertyTest : public ::testing::TestWithParam<int> {};

TEST_P(KeyBatchPropertyTest, EveryKeyIsSentOnceToItsServerAndEveryInputIsAccountedFor) {
  sharding::PartitionMap map = MapOf(GetParam());
  KeyTable table;
  KeyBatch batch;  // reused, as a channel does
  for (std::size_t distinct : {1u, 5u, 300u, 100'000u}) {
    std::vector<Key> keys = KeysWithRepeats(2'000, distinct, distinct);
    batch.Build(map, kSalt, keys, &table);

    std::set<Key> seen;
    for (ServerId server = 0; server < map.server_count; ++server) {
      for (std::size_t j = batch.begin(server); j < batch.begin(server + 1); ++j) {
        EXPECT_EQ(map.ServerOf(kSalt, batch.keys()[j]), server);
        EXPECT_EQ(keys[batch.source(j)], batch.keys()[j]);
        EXPECT_TRUE(seen.insert(batch.keys()[j]).second);
        if (j > batch.begin(server)) {
          EXPECT_LT(batch.source(j - 1), batch.source(j));
        }
      }
    }
    EXPECT_EQ(seen, std::set<Key>(keys.begin(), keys.end()));
    EXPECT_EQ(seen.size() + batch.repeats().size(), keys.size());
    for (const auto& repeat : batch.repeats()) {
      EXPECT_EQ(keys[repeat.input], batch.keys()[repeat.rank]);
      EXPECT_GT(repeat.input, batch.source(repeat.rank));
    }
  }
}

TEST_P(KeyBatchPropertyTest, SumsAndCopiesAgreeWithADictionary) {
  constexpr std::size_t kWidth = 3;
  sharding::PartitionMap map = MapOf(GetParam());
  std::vector<Key> keys = KeysWithRepeats(500, 120, 5);
  std::vector<float> rows(keys.size() * kWidth);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i % 17);
  KeyTable table;
  KeyBatch batch;
  batch.Build(map, kSalt, keys, &table);

  std::map<Key, std::array<float, kWidth>> expected;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    for (std::size_t k = 0; k < kWidth; ++k) expected[keys[i]][k] += rows[i * kWidth + k];
  }
  std::size_t half = batch.keys().size() / 2;
  std::vector<float> sums(batch.keys().size() * kWidth);
  EXPECT_TRUE(batch.GatherSums(rows.data(), kWidth, 0, half, sums.data(), false));
  EXPECT_TRUE(batch.GatherSums(rows.data(), kWidth, half, batch.keys().size(),
                               sums.data() + half * kWidth, false));
  std::vector<float> out(rows.size(), -1.0f);
  for (std::size_t j = 0; j < batch.keys().size(); ++j) {
    for (std::size_t k = 0; k < kWidth; ++k) {
      EXPECT_EQ(sums[j * kWidth + k], expected[batch.keys()[j]][k]);
      out[batch.source(j) * kWidth + k] = sums[j * kWidth + k];
    }
  }
  batch.CopyRepeats(out.data(), kWidth);
  for (std::size_t i = 0; i < keys.size(); ++i) EXPECT_EQ(out[i * kWidth], expected[keys[i]][0]);
}

INSTANTIATE_TEST_SUITE_P(Servers, KeyBatchPropertyTest, ::testing::Values(1, 2, 7));

TEST(KeyBatchTest, SumsAddUpInTheCallersOrder) {
  // 1e8 + 1 - 1e8 is 0 in float32, 1e8 - 1e8 + 1 is 1.
  std::vector<Key> keys = {4, 8, 4, 4};
  std::vector<float> rows = {1e8f, 5.0f, -1e8f, 1.0f};
  KeyTable table;
  KeyBatch batch;
  batch.Build(MapOf(1), kSalt, keys, &table);
  std::vector<float> sums(2);
  EXPECT_TRUE(batch.GatherSums(rows.data(), 1, 0, 2, sums.data(), false));
  EXPECT_THAT(sums, ElementsAre(1.0f, 5.0f));
}

}  // namespace
}  // namespace ps::client
