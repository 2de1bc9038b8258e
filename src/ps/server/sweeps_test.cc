#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "ps/server/server_test.h"

namespace ps::server {
namespace {

using testing::Sections;

class Sweeps : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, Sweeps, ::testing::Values(1, 2, 4));

TEST_P(Sweeps, DecayAndPruneRunBetweenRequests) {
  auto cluster = StartCluster(WithThreads(GetParam()));
  auto client = cluster->Connect();
  std::vector<Key> kept = Range(0, 3'000);
  std::vector<Key> rare = Range(10'000, 3'000);
  Floats before = Value(client->PullRows(0, kDim, kept));
  EXPECT_TRUE(client->PullRows(0, kDim, rare).ok());
  ASSERT_TRUE(
      client->Push(1, 0, {Sections().PushRows(0, kDim, kept, Grads(kept.size(), 0.0f))}).ok());
  EXPECT_EQ(Value(client->Control("{\"op\":\"decay\",\"method\":\"multiply\",\"factor\":0.5}")),
            "{\"pruned\":0}");
  Floats halved = Value(client->PullRows(0, kDim, kept));
  for (std::size_t i = 0; i < halved.size(); ++i) ASSERT_EQ(halved[i], before[i] * 0.5f);

  std::atomic<bool> stop{false};
  std::thread others([&] {
    auto other = cluster->Connect();
    for (std::uint64_t i = 0; !stop; ++i) {
      EXPECT_TRUE(other->PullRows(0, kDim, kept).ok());
      EXPECT_TRUE(
          other->Push(2, i, {Sections().PushRows(0, kDim, kept, Grads(kept.size(), 0.0f))}).ok());
    }
  });
  // Counts: 2 * 0.5 = 1 of those kept (more by now), 1 * 0.5 of the rare ones.
  std::string pruned =
      Value(client->Control("{\"op\":\"decay\",\"method\":\"prune\",\"min_count\":1}"));
  EXPECT_EQ(pruned, "{\"pruned\":3000}");
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(client->Control("{\"op\":\"decay\",\"method\":\"multiply\",\"factor\":1}").ok());
  }
  stop = true;
  others.join();
  Json stats = Stats(*client);
  EXPECT_EQ(stats["embeddings"], 3'000);
  EXPECT_EQ(stats["tables"]["default"]["pruned_total"], 3'000);
  EXPECT_EQ(Value(client->PullRows(0, kDim, kept)), halved);
}

}  // namespace
}  // namespace ps::server
