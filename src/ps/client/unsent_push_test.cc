// Pushes whose gradients turn out not to be finite when a part of them is on its way.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "ps/client/client.h"
#include "ps/testing/cluster.h"

namespace ps::client {
namespace {

using ps::testing::Cluster;
using ps::testing::ClusterOptions;
using ps::testing::Table;
using ::testing::HasSubstr;

constexpr std::uint32_t kPushDim = 64;
constexpr std::size_t kPushKeys = 6'000;  // six frames' worth

struct World {
  std::unique_ptr<Cluster> cluster;
  std::unique_ptr<Client> client;
  std::vector<Key> keys;

  World(net::Transport transport, std::uint32_t servers) {
    ClusterOptions options;
    options.servers = servers;
    options.unix_sockets = transport == net::Transport::kUnix;
    options.tables = {Table("wide", kPushDim)};
    cluster = Cluster::Start(options).value();
    ClientOptions connect;
    for (std::uint32_t i = 0; i < servers; ++i) {
      connect.servers.push_back({i, cluster->endpoint(i), 0});
    }
    connect.secret = Cluster::Secret();
    connect.transport = transport;
    connect.refused_give_up_seconds = 0.2;
    client = Client::Connect(std::move(connect)).value();
    for (Key key = kPushKeys; key > 0; --key) keys.push_back(key * 0x9e3779b97f4a7c15ull);
  }
  std::vector<float> Rows(std::span<const Key> of) {
    std::vector<float> rows(of.size() * kPushDim);
    RowsPull pull{0, of, rows.data(), true};
    EXPECT_TRUE(client->Pull({&pull, 1}, {}).ok());
    return rows;
  }
  Status Push(const std::vector<float>& grads) {
    RowsPush push{0, keys, grads.data()};
    return client->Push({&push, 1}, {}, {.stream = 5, .sequence = 3});
  }
};

class UnsentPush
    : public ::testing::TestWithParam<std::tuple<net::Transport, std::uint32_t, bool>> {};

TEST_P(UnsentPush, ChangesNothingAnywhereAndItsNumberCanBeUsed) {
  const auto [transport, servers, repeats] = GetParam();
  World world(transport, servers);
  if (repeats) {
    for (std::size_t i = 1; i < kPushKeys; i += 3) world.keys[i] = world.keys[i - 1];
  }
  const std::vector<float> before = world.Rows(world.keys);
  for (const std::size_t row : {std::size_t{0}, kPushKeys / 2, kPushKeys - 1}) {
    std::vector<float> grads(kPushKeys * kPushDim, 1.0f);
    grads[row * kPushDim + 7] = row == 0 ? INFINITY : std::nanf("");
    const Status status = world.Push(grads);
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status.ToString();
    EXPECT_THAT(status.message(), HasSubstr("(" + std::to_string(row) + ", 7)"));
    EXPECT_EQ(world.Rows(world.keys), before) << row;
  }
  if (repeats) {
    std::vector<float> grads(kPushKeys * kPushDim, 1.0f);
    grads[999 * kPushDim] = grads[1'000 * kPushDim] = 3e38f;  // of one key
    const Status status = world.Push(grads);
    EXPECT_THAT(status.message(), HasSubstr(std::to_string(world.keys[1'000])));
    EXPECT_EQ(world.Rows(world.keys), before);
  }
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE(world.Push(std::vector<float>(kPushKeys * kPushDim, 1.0f)).ok());
  }
  const std::vector<float> after = world.Rows(world.keys);
  EXPECT_FLOAT_EQ(after.back(), before.back() - 1.0f);
}

INSTANTIATE_TEST_SUITE_P(Ways, UnsentPush,
                         ::testing::Combine(::testing::Values(net::Transport::kUnix,
                                                              net::Transport::kTcp),
                                            ::testing::Values(1u, 3u), ::testing::Bool()));

TEST(UnsentPushTest, GradientsOfAServerThatIsGoneAreLookedAtToo) {
  World world(net::Transport::kUnix, 2);
  const auto definition = world.client->definition();
  const auto& table = definition->tables[0];
  std::vector<float> grads(kPushKeys * kPushDim, 1.0f);
  std::vector<Key> kept;
  for (std::size_t i = 0; i < kPushKeys; ++i) {
    if (definition->map.ServerOf(table.salt(), world.keys[i]) == 0) {
      kept.push_back(world.keys[i]);
    } else {
      grads[i * kPushDim] = INFINITY;
    }
  }
  const std::vector<float> before = world.Rows(kept);
  world.Rows(world.keys);
  for (const bool is_known : {false, true}) {  // that it is gone
    if (!is_known) world.cluster->CloseServer(1);
    EXPECT_EQ(world.Push(grads).code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(world.Rows(kept), before);
  }
}

}  // namespace
}  // namespace ps::client
