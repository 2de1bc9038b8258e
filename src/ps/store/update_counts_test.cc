#include "ps/store/update_counts.h"

#include <algorithm>
#include <map>
#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ps::store {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

TEST(UpdateCounts, UntouchedKeysHaveTheDefaultAndAreNotKept) {
  UpdateCounts counts(3);
  EXPECT_EQ(counts.Get(7), 3);
  EXPECT_FALSE(counts.Contains(7));
  EXPECT_EQ(counts.Add(7, 2), 5);
  EXPECT_TRUE(counts.Contains(7));
  EXPECT_TRUE(counts.Remove(7));
  EXPECT_FALSE(counts.Remove(7));
  EXPECT_EQ(counts.Get(7), 3);
  EXPECT_EQ(counts.size(), 0u);
}

TEST(UpdateCounts, PruneTakesOutExactlyWhatIsBelow) {
  UpdateCounts counts(0);
  counts.Set(1, 1);
  counts.Set(2, 2);
  counts.Set(~Key{0}, 3);
  EXPECT_THAT(counts.Prune(2), ElementsAre(1));
  EXPECT_THAT(counts.Prune(2), IsEmpty());
  counts.Decay(0.5);
  EXPECT_THAT(counts.All(), UnorderedElementsAre(Pair(2, 1), Pair(~Key{0}, 1.5)));
}

TEST(UpdateCounts, AgreesWithAMapOverManyOperations) {
  std::mt19937_64 random(5);
  UpdateCounts counts(1);
  std::map<Key, float> model;
  for (int i = 0; i < 20'000; ++i) {
    const Key key = random() % 500;
    switch (random() % 8) {
      case 0:
        EXPECT_EQ(counts.Remove(key), model.erase(key) == 1);
        break;
      case 1:
        counts.Set(key, static_cast<float>(random() % 9));
        model[key] = counts.Get(key);
        break;
      default:
        model.try_emplace(key, 1.0f).first->second += 1;
        EXPECT_EQ(counts.Add(key, 1), model[key]);
    }
    if (i % 2'000 == 1'999) {
      counts.Decay(0.5);
      for (auto& [each, count] : model) count *= 0.5f;
      std::vector<Key> pruned = counts.Prune(2);
      std::sort(pruned.begin(), pruned.end());
      std::vector<Key> wanted;
      for (const auto& [each, count] : model) {
        if (count < 2) wanted.push_back(each);
      }
      EXPECT_EQ(pruned, wanted);
      for (Key each : wanted) model.erase(each);
    }
  }
  auto all = counts.All();
  EXPECT_EQ((std::map<Key, float>(all.begin(), all.end())), model);
  EXPECT_EQ(counts.size(), model.size());
}

}  // namespace
}  // namespace ps::store
