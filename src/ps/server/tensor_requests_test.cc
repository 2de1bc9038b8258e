#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ps/base/limits.h"
#include "ps/base/random.h"
#include "ps/server/server_test.h"

namespace ps::server {
namespace {

using ::testing::AllOf;
using testing::Cluster;
using testing::ClusterOptions;
using ::testing::HasSubstr;
using testing::RawClient;
using testing::Sections;

class TensorRequests : public ::testing::TestWithParam<int> {
 protected:
  void Define(std::vector<sharding::TensorDefinition> tensors) {
    Value(cluster_->coordinator().DefineTensors(std::move(tensors)));
  }

  std::unique_ptr<Cluster> cluster_ = StartCluster(WithThreads(GetParam()));
  std::unique_ptr<RawClient> client_ = cluster_->Connect();
};
INSTANTIATE_TEST_SUITE_P(Threads, TensorRequests, ::testing::Values(1, 3));

TEST_P(TensorRequests, ChunksAreAssignedTrainedAndSentWhenChanged) {
  Define({{0, "kernel", {2, 3}}, {0, "bias", {}}});
  EXPECT_THAT(Refusal(client_->Pull({Sections().PullChunk(0, 0)}).status(), StatusCode::kNotFound),
              HasSubstr("'kernel' has no values yet"));
  EXPECT_EQ(client_->Push(1, 0, {Sections().PushChunk(0, 0, Floats(6, 1))}).code(),
            StatusCode::kNotFound);

  Floats kernel = {1, 2, 3, 4, 5, 6};
  Sections assign = Sections().AssignChunk(0, 0, kernel).AssignChunk(1, 0, {7});
  ASSERT_TRUE(client_->Push(1, 0, {assign}).ok());
  auto pulled = Value(client_->Pull({Sections().PullChunk(1, 0).PullChunk(0, 0)}));
  ASSERT_EQ(pulled.size(), 2u);
  EXPECT_EQ(pulled[0].values, Floats{7});
  EXPECT_EQ(pulled[1].values, kernel);

  auto again = Value(client_->Pull(
      {Sections().PullChunk(0, 0, pulled[1].head.version).PullRows(0, kDim, {5}).PullChunk(1, 0)}));
  ASSERT_EQ(again.size(), 3u);
  EXPECT_TRUE(again[0].values.empty()) << "unchanged: not sent";
  EXPECT_EQ(again[0].head.version, pulled[1].head.version);
  EXPECT_EQ(again[1].values, Value(client_->PullRows(0, kDim, {5})));
  EXPECT_EQ(again[2].values, Floats{7});

  ASSERT_TRUE(client_->Push(1, 1, {Sections().PushChunk(0, 0, Floats(6, 0.5f))}).ok());
  auto trained = Value(client_->Pull({Sections().PullChunk(0, 0, pulled[1].head.version)}));
  EXPECT_EQ(trained[0].values, (Floats{0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f}));
  EXPECT_GT(trained[0].head.version, pulled[1].head.version);

  ASSERT_TRUE(
      client_->Push(1, 2, {Sections().AssignChunk(1, 0, {8}, /*only_if_absent=*/true)}).ok());
  EXPECT_EQ(Value(client_->Pull({Sections().PullChunk(1, 0)}))[0].values, Floats{7});
}

TEST_P(TensorRequests, WrongChunksAreRefused) {
  Define({{0, "kernel", {6}}});
  EXPECT_THAT(Refusal(client_->Push(1, 0, {Sections().AssignChunk(0, 0, {1, 2})}),
                      StatusCode::kInvalidArgument),
              AllOf(HasSubstr("'kernel' has 6 values"), HasSubstr("brings 2")));
  EXPECT_THAT(Refusal(client_->Push(1, 0, {Sections().AssignChunk(0, 1, {})}),
                      StatusCode::kInvalidArgument),
              HasSubstr("chunk 1"));
}

TEST_P(TensorRequests, InitialValuesDoNotDependOnThreads) {
  constexpr std::uint64_t kFloats = limits::kTensorChunkFloats + 100;
  Define({{0, "big", {kFloats}}, {0, "ones", {3}}});
  std::string init =
      "{\"op\":\"init_tensors\",\"tensors\":[{\"id\":0,\"init\":\"normal\",\"scale\":0.5},"
      "{\"id\":1,\"init\":\"ones\",\"scale\":0}]}";
  EXPECT_EQ(Value(client_->Control(init)), "{}");
  auto pulled = Value(client_->Pull(
      {Sections().PullChunk(0, 0), Sections().PullChunk(0, 1), Sections().PullChunk(1, 0)}));
  ASSERT_EQ(pulled.size(), 3u);
  Floats all = pulled[0].values;
  all.insert(all.end(), pulled[1].values.begin(), pulled[1].values.end());
  Floats expected(kFloats);
  FillInitial({InitKind::kNormal, 0.5f}, ClusterOptions().seed, HashBytes("big"), 0, 0, expected);
  EXPECT_EQ(all, expected);
  EXPECT_EQ(pulled[2].values, Floats(3, 1.0f));
  Json stats = Stats(*client_);
  EXPECT_EQ(stats["weights"], 2);
  EXPECT_EQ(stats["parameters"], kFloats + 3);

  EXPECT_EQ(client_->Control("{\"op\":\"init_tensors\",\"tensors\":[{\"id\":2}]}").status().code(),
            StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ps::server
