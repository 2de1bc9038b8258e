#include "ps/store/weight_store.h"

#include <algorithm>
#include <limits>

#include <gtest/gtest.h>

#include "ps/base/limits.h"

namespace ps::store {
namespace {

std::vector<float> Copy(std::span<const float> floats) { return {floats.begin(), floats.end()}; }

class WeightStoreTest : public testing::Test {
 protected:
  std::unique_ptr<optimizers::Optimizer> optimizer_ =
      std::move(optimizers::Optimizer::Create({"sgd", {{"learning_rate", 0.5}}})).value();
  WeightStore store_{optimizer_.get()};
  const ChunkId id_{.tensor = 3, .chunk = 1};
  const std::vector<float> values_ = {1, 2, 3};
};

TEST_F(WeightStoreTest, HoldsWhatWasAssigned) {
  EXPECT_FALSE(store_.Has(id_));
  store_.Assign(id_, values_);
  EXPECT_TRUE(store_.Has(id_));
  EXPECT_FALSE(store_.Has({3, 0}));
  EXPECT_EQ(Copy(store_.Get(id_).values), values_);
  EXPECT_EQ(Copy(store_.Get(id_).state), (std::vector<float>{0, 0, 0}));
  EXPECT_EQ(store_.chunk_count(), 1u);
  EXPECT_GE(store_.memory_bytes(), 6 * sizeof(float));
}

TEST_F(WeightStoreTest, VersionsStartAtOneAndCountChanges) {
  store_.Assign(id_, values_);
  EXPECT_EQ(store_.Get(id_).version, 1u);
  store_.Apply(id_, values_, 1);
  EXPECT_EQ(store_.Get(id_).version, 2u);
  store_.Assign(id_, values_);
  EXPECT_EQ(store_.Get(id_).version, 3u);
  store_.AssignInitial(id_, {}, 1, 2, 3);
  EXPECT_EQ(store_.Get(id_).version, 4u);
}

TEST_F(WeightStoreTest, ApplyRunsTheOptimizerOnThatChunkAlone) {
  store_.Assign(id_, values_);
  store_.Assign({3, 2}, values_);
  store_.Apply(id_, std::vector<float>{2, 0, -2}, 1);
  EXPECT_EQ(Copy(store_.Get(id_).values), (std::vector<float>{0, 2, 4}));
  EXPECT_EQ(Copy(store_.Get(id_).state), (std::vector<float>{2, 0, -2}));
  EXPECT_EQ(Copy(store_.Get({3, 2}).values), values_);
  EXPECT_EQ(store_.Get({3, 2}).version, 1u);
}

TEST_F(WeightStoreTest, RateScaleReachesTheOptimizer) {
  store_.Assign(id_, values_);
  store_.Apply(id_, std::vector<float>{2, 0, -2}, 0.5f);
  EXPECT_EQ(Copy(store_.Get(id_).values), (std::vector<float>{0.5, 2, 3.5}));
}

TEST_F(WeightStoreTest, AssignStartsStateFresh) {
  store_.Assign(id_, values_);
  store_.Apply(id_, values_, 1);
  store_.Assign(id_, values_);
  EXPECT_EQ(Copy(store_.Get(id_).state), (std::vector<float>{0, 0, 0}));
}

TEST_F(WeightStoreTest, ARestoredChunkGoesOnWhereTheOtherStopped) {
  store_.Assign(id_, values_);
  store_.Apply(id_, values_, 1);
  WeightStore other(optimizer_.get());
  other.Restore(id_, store_.Get(id_).values, store_.Get(id_).state);
  EXPECT_EQ(other.Get(id_).version, 1u);
  store_.Apply(id_, values_, 1);
  other.Apply(id_, values_, 1);
  EXPECT_EQ(Copy(other.Get(id_).values), Copy(store_.Get(id_).values));
  EXPECT_EQ(Copy(other.Get(id_).state), Copy(store_.Get(id_).state));
}

TEST_F(WeightStoreTest, ANewEpochIsTheSameWhateverAVersionHadCountedTo) {
  store_.Assign({0, 0}, std::vector<float>{1.0f});
  store_.Assign({0, 1}, std::vector<float>{1.0f});
  store_.Assign({0, 1}, std::vector<float>{2.0f});
  store_.StartEpoch([](ChunkId id) { return id.tensor == 0; });
  EXPECT_EQ(store_.Get({0, 0}).version, std::uint64_t{1} << 32);
  EXPECT_EQ(store_.Get({0, 1}).version, std::uint64_t{1} << 32);
  EXPECT_EQ(store_.Get({0, 1}).values[0], 2.0f);
  store_.StartEpoch([](ChunkId) { return false; });
  EXPECT_EQ(store_.Get({0, 0}).version, std::uint64_t{1} << 32);
}

TEST_F(WeightStoreTest, AssignMayChangeTheSize) {
  store_.Assign(id_, values_);
  for (std::size_t floats : {5, 2, 0, 4}) {
    std::vector<float> values(floats, 7.0f);
    store_.Assign(id_, values);
    EXPECT_EQ(Copy(store_.Get(id_).values), values);
    EXPECT_EQ(store_.Get(id_).state.size(), floats);
  }
  EXPECT_EQ(store_.Get(id_).version, 5u);
}

TEST_F(WeightStoreTest, AChunksInitialValuesAreItsPartOfTheTensors) {
  Initializer normal{InitKind::kNormal, 0.1f};
  std::vector<float> whole(2 * limits::kTensorChunkFloats);
  FillInitial(normal, 5, 6, 0, 0, whole);
  store_.AssignInitial({3, 0}, normal, 5, 6, limits::kTensorChunkFloats);
  store_.AssignInitial({3, 1}, normal, 5, 6, 1000);
  std::span<const float> first = store_.Get({3, 0}).values, second = store_.Get({3, 1}).values;
  EXPECT_TRUE(std::equal(first.begin(), first.end(), whole.begin()));
  EXPECT_TRUE(std::equal(second.begin(), second.end(), whole.begin() + limits::kTensorChunkFloats));
}

TEST_F(WeightStoreTest, CheckSizeNamesWhatIsWrong) {
  EXPECT_EQ(store_.CheckSize(id_, 3).code(), StatusCode::kNotFound);
  store_.Assign(id_, values_);
  EXPECT_TRUE(store_.CheckSize(id_, 3).ok());
  Status wrong = store_.CheckSize(id_, 4);
  EXPECT_EQ(wrong.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(wrong.message().find("chunk 1 of dense tensor 3 has 3 values, not 4"),
            std::string::npos);
}

TEST_F(WeightStoreTest, RemoveTakesAllChunksOfOneTensor) {
  constexpr std::uint32_t kLast = std::numeric_limits<std::uint32_t>::max();
  for (ChunkId id : {ChunkId{2, kLast}, {3, 0}, {3, 7}, {3, kLast}, {4, 0}, {kLast, 0}}) {
    store_.Assign(id, values_);
  }
  store_.Remove(3);
  EXPECT_EQ(store_.chunk_count(), 3u);
  EXPECT_FALSE(store_.Has({3, 7}));
  EXPECT_TRUE(store_.Has({2, kLast}));
  EXPECT_TRUE(store_.Has({4, 0}));
  store_.Remove(kLast);
  EXPECT_FALSE(store_.Has({kLast, 0}));
  store_.Remove(99);
  EXPECT_EQ(store_.chunk_count(), 2u);
}

}  // namespace
}  // namespace ps::store
