#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "ps/server/server_test.h"

namespace ps::server {
namespace {

using ::testing::AllOf;
using testing::ClusterOptions;
using ::testing::HasSubstr;
using testing::Sections;

class RowLimit : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, RowLimit, ::testing::Values(1, 2, 4));

TEST_P(RowLimit, AtTheRowLimitARequestIsDoneWhollyOrNotAtAll) {
  ClusterOptions options = WithThreads(GetParam());
  options.rows_max = 100;
  options.tables = {testing::Table("default", kDim), testing::Table("user", kDim)};
  auto cluster = StartCluster(options);
  auto client = cluster->Connect();
  Floats sixty = Value(client->PullRows(0, kDim, Range(0, 60)));

  // 41 new ones among 101 keys; then the same as a push, and spread over tables and frames.
  std::vector<Key> keys = Range(0, 101);
  auto refused = client->Pull({Sections().PullRows(1, kDim, keys)});
  EXPECT_THAT(Refusal(refused.status(), StatusCode::kResourceExhausted),
              AllOf(HasSubstr("server 0"), HasSubstr("'user'"), HasSubstr("60 rows of at most 100"),
                    HasSubstr("max_embeddings_per_shard")));
  Status push = client->Push(1, 0, {Sections().PushRows(0, kDim, keys, Grads(101, 1.0f))});
  EXPECT_EQ(push.code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(client
                ->Pull({Sections().PullRows(0, kDim, Range(50, 31)),
                        Sections().PullRows(1, kDim, Range(0, 20))})
                .status()
                .code(),
            StatusCode::kResourceExhausted);
  Json stats = Stats(*client);
  EXPECT_EQ(stats["embeddings"], 60);
  EXPECT_EQ(stats["refusals_total"], 3);
  EXPECT_EQ(Value(client->PullRows(0, kDim, Range(0, 60))), sixty) << "no gradient was applied";

  // What fits exactly is done, keys that repeat over frames counted once; and the refused number
  // may run now that it fits.
  EXPECT_TRUE(client
                  ->Pull({Sections().PullRows(0, kDim, Range(0, 90)),
                          Sections().PullRows(0, kDim, Range(30, 60))})
                  .ok());
  EXPECT_TRUE(
      client->Push(1, 0, {Sections().PushRows(0, kDim, Range(0, 100), Grads(100, 1.0f))}).ok());
  EXPECT_EQ(Stats(*client)["embeddings"], 100);
  Floats after = Value(client->PullRows(0, kDim, Range(0, 60)));
  for (std::size_t i = 0; i < after.size(); ++i) ASSERT_EQ(after[i], sixty[i] - 1.0f);
  EXPECT_FALSE(client->PullRows(1, kDim, {1}).ok());
  EXPECT_TRUE(client->PullRows(1, kDim, {1}, /*create=*/false).ok());

  // Pruned rows make room.
  EXPECT_EQ(Value(client->Control("{\"op\":\"decay\",\"method\":\"prune\",\"min_count\":3}")),
            "{\"pruned\":100}");
  EXPECT_TRUE(client->PullRows(1, kDim, Range(0, 100)).ok());
}

// Many at once near the limit: rows never pass it, and what is refused is refused for good reason.
TEST_P(RowLimit, ConcurrentRequestsNeverPassTheRowLimit) {
  ClusterOptions options = WithThreads(GetParam());
  options.rows_max = 300;
  auto cluster = StartCluster(options);
  std::atomic<int> done{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      auto client = cluster->Connect();
      for (int i = 0; i < 30; ++i) {
        // All threads ask for the same 300 keys, 50 at a time, so every request fits.
        if (client->PullRows(0, kDim, Range((i + t) % 6 * 50, 50)).ok()) ++done;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  auto client = cluster->Connect();
  EXPECT_EQ(done, 4 * 30);
  EXPECT_EQ(Stats(*client)["embeddings"], 300);
  EXPECT_FALSE(client->PullRows(0, kDim, {1'000}).ok());
  EXPECT_EQ(Stats(*client)["embeddings"], 300);
}

TEST_P(RowLimit, PruneAndRequestsAtTheLimitDoNotShutEachOtherOut) {
  ClusterOptions options = WithThreads(GetParam());
  options.rows_max = 200;
  auto cluster = StartCluster(options);
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 2; ++t) {
    threads.emplace_back([&, t] {
      auto client = cluster->Connect();
      for (std::uint64_t i = 0; !stop; ++i) {
        (void)client->PullRows(0, kDim, Range((i * 37 + t * 1'000) % 5'000, 120));
      }
    });
  }
  auto client = cluster->Connect();
  for (int i = 0; i < 30; ++i) {
    EXPECT_TRUE(client->Control("{\"op\":\"decay\",\"method\":\"prune\",\"min_count\":2}").ok());
  }
  stop = true;
  for (std::thread& thread : threads) thread.join();
  Json table = Stats(*client)["tables"]["default"];
  EXPECT_LE(table["rows"], 200);
  EXPECT_EQ(table["rows"], table["created_total"].get<int>() - table["pruned_total"].get<int>());
}

}  // namespace
}  // namespace ps::server
