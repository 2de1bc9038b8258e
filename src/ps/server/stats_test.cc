#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "ps/server/server_test.h"

namespace ps::server {
namespace {

using testing::ClusterOptions;
using testing::Sections;

class Statistics : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, Statistics, ::testing::Values(1, 2, 4));

TEST_P(Statistics, StatisticsAddUp) {
  ClusterOptions options = WithThreads(GetParam());
  options.tables = {testing::Table("default", kDim), testing::Table("user", 7)};
  auto cluster = StartCluster(options);
  auto client = cluster->Connect();
  Value(cluster->coordinator().DefineTensors({{0, "kernel", {10}}}));
  ASSERT_TRUE(client->Push(1, 0, {Sections().AssignChunk(0, 0, Floats(10, 1))}).ok());
  ASSERT_TRUE(client->PullRows(0, kDim, Range(0, 500)).ok());
  ASSERT_TRUE(client->PullRows(1, 7, Range(0, 300)).ok());
  ASSERT_FALSE(client->PullRows(2, 7, Range(0, 300)).ok());
  Json before = Stats(*client);
  Json stats = Stats(*client);
  EXPECT_EQ(stats["server_id"], 0);
  EXPECT_EQ(stats["address"], "127.0.0.1:" + std::to_string(cluster->server(0).port()));
  EXPECT_TRUE(stats["uptime_seconds"].is_number_float());
  EXPECT_EQ(stats["requests_total"], before["requests_total"].get<int>() + 1);
  EXPECT_EQ(stats["errors_total"], 1);
  EXPECT_EQ(stats["refusals_total"], 0);
  EXPECT_EQ(stats["embeddings"], 800);
  EXPECT_EQ(stats["weights"], 1);
  EXPECT_EQ(stats["parameters"], 10);
  std::uint64_t bytes = stats["weights_memory_bytes"];
  for (const char* name : {"default", "user"}) {
    const Json& table = stats["tables"][name];
    EXPECT_EQ(table["rows"], table["created_total"]);
    for (const Json& part : table["memory_bytes"]) bytes += part.get<std::uint64_t>();
    EXPECT_GE(table["memory_bytes"]["values"].get<std::uint64_t>(),
              table["rows"].get<std::uint64_t>() * (16 + 4 * table["dim"].get<std::uint64_t>()));
  }
  EXPECT_EQ(stats["memory_bytes"], bytes);
  EXPECT_EQ(stats["latency_ms"]["pull"]["count"], 3);
  EXPECT_EQ(stats["latency_ms"]["push"]["count"], 1);
  EXPECT_LE(stats["latency_ms"]["pull"]["p50"], stats["latency_ms"]["pull"]["max"]);
  EXPECT_GT(stats["bytes_sent_total"], 500 * kDim * 4);
  EXPECT_GT(stats["bytes_received_total"], 800 * 8);
  EXPECT_EQ(Json::parse(cluster->server(0).StatsJson())["embeddings"], 800);
}

}  // namespace
}  // namespace ps::server
