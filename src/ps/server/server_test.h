#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "ps/sharding/json_fields.h"
#include "ps/testing/cluster.h"

// What tests of a server's requests share.
namespace ps::server {

using sharding::Json;
using Floats = std::vector<float>;

inline constexpr std::uint32_t kDim = 4;  // of the table "default"

inline std::unique_ptr<testing::Cluster> StartCluster(const testing::ClusterOptions& options = {}) {
  Result<std::unique_ptr<testing::Cluster>> cluster = testing::Cluster::Start(options);
  if (!cluster.ok()) {
    ADD_FAILURE() << cluster.status().ToString();
    std::abort();
  }
  return std::move(cluster).value();
}

inline testing::ClusterOptions WithThreads(int threads) {
  testing::ClusterOptions options;
  options.shard_threads = threads;
  return options;
}

inline std::vector<Key> Range(Key first, std::size_t count) {
  std::vector<Key> keys(count);
  std::iota(keys.begin(), keys.end(), first);
  return keys;
}

inline Floats Grads(std::size_t keys, float value) { return Floats(keys * kDim, value); }

// The value, or a failed test and a value made of nothing.
template <typename T>
T Value(Result<T> result) {
  if (!result.ok()) {
    ADD_FAILURE() << result.status().ToString();
    return T{};
  }
  return std::move(result).value();
}

inline Json Stats(testing::RawClient& client) {
  return Json::parse(Value(client.Control("{\"op\":\"stats\"}")), nullptr, false);
}

// The message of a status that has to be of this code.
inline std::string Refusal(const Status& status, StatusCode code) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  return status.message();
}

}  // namespace ps::server
