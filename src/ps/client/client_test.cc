#include "ps/client/client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "ps/base/limits.h"
#include "ps/net/resolve.h"
#include "ps/testing/cluster.h"

namespace ps::client {
namespace {

using ps::testing::Cluster;
using ps::testing::ClusterOptions;
using ps::testing::Table;
using ::testing::Each;
using ::testing::HasSubstr;

constexpr std::uint32_t kDim = 4;

ClientOptions OptionsFor(const Cluster& cluster, net::Endpoint coordinator) {
  ClientOptions options;
  for (std::uint32_t i = 0; i < cluster.server_count(); ++i) {
    options.servers.push_back({i, cluster.endpoint(i), 0});
  }
  options.coordinator = std::move(coordinator);
  options.secret = Cluster::Secret();
  options.timeout_seconds = 20.0;
  options.message_bytes_max = 4u << 20;
  return options;
}

ClusterOptions ClusterOf(std::uint32_t servers, int shard_threads = 1, std::uint64_t rows_max = 0) {
  ClusterOptions options;
  options.servers = servers;
  options.shard_threads = shard_threads;
  options.rows_max = rows_max;
  return options;
}

struct Fixture {
  std::unique_ptr<Cluster> cluster;
  std::unique_ptr<Client> client;

  explicit Fixture(const ClusterOptions& options, ClientOptions wanted = {}) {
    auto started = Cluster::Start(options);
    EXPECT_TRUE(started.ok()) << started.status().ToString();
    cluster = std::move(started).value();
    client = NewClient(std::move(wanted));
  }
  std::unique_ptr<Client> NewClient(ClientOptions wanted = {}) {
    ClientOptions options = OptionsFor(*cluster, cluster->coordinator().endpoint());
    options.batch_size = wanted.batch_size;
    options.compression = wanted.compression;
    options.is_interrupted = wanted.is_interrupted;
    auto connected = Client::Connect(std::move(options));
    EXPECT_TRUE(connected.ok()) << connected.status().ToString();
    return std::move(connected).value();
  }
  TensorId DefineTensor(const std::string& name, std::vector<std::uint64_t> shape) {
    sharding::TensorDefinition tensor;
    tensor.name = name;
    tensor.shape = std::move(shape);
    auto created = cluster->coordinator().DefineTensors({tensor});
    EXPECT_TRUE(created.ok()) << created.status().ToString();
    return cluster->coordinator().definition()->FindTensor(name)->id;
  }
};

std::vector<float> PullRows(Client& client, const std::vector<Key>& keys, bool create = true,
                            TableId table = 0, std::uint32_t dim = kDim) {
  std::vector<float> out(keys.size() * dim, -99.0f);
  RowsPull pull{table, keys, out.data(), create};
  Status status = client.Pull({&pull, 1}, {});
  EXPECT_TRUE(status.ok()) << status.ToString();
  return out;
}

Status PushRows(Client& client, const std::vector<Key>& keys, const std::vector<float>& grads,
                PushOptions options = {}, TableId table = 0) {
  RowsPush push{table, keys, grads.data()};
  return client.Push({&push, 1}, {}, options);
}

std::vector<Key> RandomKeys(std::size_t count, std::size_t distinct) {
  std::mt19937_64 random(count + distinct);
  std::vector<Key> pool(distinct), keys(count);
  for (Key& key : pool) key = random();
  for (Key& key : keys) key = pool[random() % distinct];
  return keys;
}

std::vector<Key> DistinctKeys(std::size_t count) {
  std::vector<Key> keys(count);
  for (std::size_t i = 0; i < count; ++i) keys[i] = (i + 1) * 0x9e3779b97f4a7c15ull;
  return keys;
}

// Servers, Unix sockets, keys of one frame, compression.
struct Shape {
  std::uint32_t servers;
  bool unix_sockets;
  std::size_t batch_size;
  wire::Compression compression = wire::Compression::kNone;
};

class ClientRowsTest : public ::testing::TestWithParam<Shape> {
 protected:
  static ClusterOptions ClusterShape() {
    ClusterOptions options;
    options.servers = GetParam().servers;
    options.unix_sockets = GetParam().unix_sockets;
    options.compression = GetParam().compression;
    options.shard_threads = 2;
    options.tables = {Table("default", kDim), Table("odd", 3)};
    return options;
  }
  static ClientOptions ClientShape() {
    ClientOptions options;
    options.batch_size = GetParam().batch_size;
    options.compression = GetParam().compression;
    return options;
  }
  Fixture fixture_{ClusterShape(), ClientShape()};
};

TEST_P(ClientRowsTest, RowsArriveInInputOrderAndAreThoseTheServersHold) {
  std::vector<Key> keys = RandomKeys(3'000, 1'000);
  std::vector<float> rows = PullRows(*fixture_.client, keys);
  // A second client, and a key at a time: the plainest road there is.
  auto other = fixture_.NewClient();
  for (std::size_t i = 0; i < keys.size(); i += 97) {
    std::vector<float> row = PullRows(*other, {keys[i]}, /*create=*/false);
    for (std::uint32_t k = 0; k < kDim; ++k) ASSERT_EQ(rows[i * kDim + k], row[k]) << i;
  }
}

TEST_P(ClientRowsTest, GradientsOfRepeatedKeysAreSummedAndEachAppliedOnce) {
  std::vector<Key> keys = RandomKeys(2'000, 700);
  std::vector<float> before = PullRows(*fixture_.client, keys);
  std::vector<float> grads(keys.size() * kDim);
  std::map<Key, float> sums;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    for (std::uint32_t k = 0; k < kDim; ++k) grads[i * kDim + k] = static_cast<float>(i % 8);
    sums[keys[i]] += static_cast<float>(i % 8);
  }
  ASSERT_TRUE(PushRows(*fixture_.client, keys, grads).ok());
  std::vector<float> after = PullRows(*fixture_.client, keys);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    ASSERT_FLOAT_EQ(after[i * kDim], before[i * kDim] - sums[keys[i]]) << i;
  }
}

TEST_P(ClientRowsTest, SeveralTablesAndWeightsTravelInOneCall) {
  TensorId tensor = fixture_.DefineTensor("w", {3, 5});
  std::vector<float> values(15, 2.5f);
  TensorPush assign{tensor, values, true, false};
  ASSERT_TRUE(fixture_.client->Push({}, {&assign, 1}, {}).ok());

  std::vector<Key> a = RandomKeys(333, 333), b = RandomKeys(501, 100);
  std::vector<float> rows_a(a.size() * kDim), rows_b(b.size() * 3), weight(15);
  RowsPull pulls[] = {{0, a, rows_a.data(), true}, {1, b, rows_b.data(), true}};
  TensorPull tensor_pull{tensor, weight.data(), nullptr};
  Status status = fixture_.client->Pull(pulls, {&tensor_pull, 1});
  ASSERT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(rows_a, PullRows(*fixture_.client, a));
  EXPECT_EQ(rows_b, PullRows(*fixture_.client, b, true, 1, 3));
  EXPECT_THAT(weight, Each(2.5f));
}

TEST_P(ClientRowsTest, AnUnknownKeyIsZerosWhenItIsNotToBeMade) {
  std::vector<Key> keys = RandomKeys(50, 50);
  EXPECT_THAT(PullRows(*fixture_.client, keys, /*create=*/false), Each(0.0f));
  EXPECT_TRUE(PullRows(*fixture_.client, {}).empty());
}

INSTANTIATE_TEST_SUITE_P(Shapes, ClientRowsTest,
                         ::testing::Values(Shape{1, false, 10'000}, Shape{1, true, 64},
                                           Shape{3, false, 100}, Shape{3, true, 10'000},
                                           Shape{2, false, 10'000, wire::Compression::kLz4}));

TEST(ClientTensorTest, WhatHasNotChangedIsNotSentAgain) {
  Fixture fixture{ClusterOf(2)};
  const std::size_t floats = 2 * limits::kTensorChunkFloats + 17;
  TensorId tensor = fixture.DefineTensor("big", {floats});
  std::vector<float> values(floats);
  for (std::size_t i = 0; i < floats; ++i) values[i] = static_cast<float>(i);
  TensorPush assign{tensor, values, true, false};
  ASSERT_TRUE(fixture.client->Push({}, {&assign, 1}, {}).ok());

  auto pull = [&](Client& client) {
    std::shared_ptr<const TensorValue> value;
    TensorPull request{tensor, nullptr, &value};
    Status status = client.Pull({}, {&request, 1});
    EXPECT_TRUE(status.ok()) << status.ToString();
    return value;
  };
  auto first = pull(*fixture.client);
  ASSERT_EQ(first->floats, floats);
  EXPECT_TRUE(std::equal(values.begin(), values.end(), first->values.get()));

  std::uint64_t received = fixture.client->stats().bytes_received;
  EXPECT_EQ(pull(*fixture.client), first);
  EXPECT_LT(fixture.client->stats().bytes_received - received, 4'096u);

  std::vector<float> grads(floats, 0.5f);
  TensorPush push{tensor, grads, false, false};
  ASSERT_TRUE(fixture.client->Push({}, {&push, 1}, {}).ok());
  auto changed = pull(*fixture.client);
  EXPECT_NE(changed, first);
  EXPECT_EQ(changed->values[floats - 1], values[floats - 1] - 0.5f);
  EXPECT_EQ(first->values[0], 0.0f) << "an earlier value must stay as it was";
}

TEST(ClientTensorTest, TheFirstToAssignAnAbsentTensorWins) {
  Fixture fixture{ClusterOptions{}};
  TensorId tensor = fixture.DefineTensor("w", {2});
  std::vector<float> first = {1, 2}, second = {8, 9}, out(2);
  for (const auto& values : {first, second}) {
    TensorPush assign{tensor, values, true, /*only_if_absent=*/true};
    ASSERT_TRUE(fixture.client->Push({}, {&assign, 1}, {}).ok());
  }
  TensorPull pull{tensor, out.data(), nullptr};
  ASSERT_TRUE(fixture.client->Pull({}, {&pull, 1}).ok());
  EXPECT_EQ(out, first);
}

TEST(ClientTensorTest, AWeightWithoutValuesOrOfAnotherSizeIsRefusedByName) {
  Fixture fixture{ClusterOptions{}};
  TensorId tensor = fixture.DefineTensor("fc1/kernel", {2});
  std::vector<float> out(2);
  TensorPull pull{tensor, out.data(), nullptr};
  EXPECT_EQ(fixture.client->Pull({}, {&pull, 1}).code(), StatusCode::kNotFound);
  std::vector<float> wrong(3);
  TensorPush push{tensor, wrong, false, false};
  Status status = fixture.client->Push({}, {&push, 1}, {});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("fc1/kernel"));
}

TEST(ClientPushTest, ANumberOfAStreamIsAppliedOnceWhoeverRepeatsIt) {
  Fixture fixture{ClusterOf(2)};
  std::vector<Key> keys = DistinctKeys(40);
  std::vector<float> before = PullRows(*fixture.client, keys);
  std::vector<float> grads(keys.size() * kDim, 1.0f);
  auto other = fixture.NewClient();
  for (Client* client : {fixture.client.get(), other.get(), fixture.client.get()}) {
    ASSERT_TRUE(PushRows(*client, keys, grads, {.stream = 5, .sequence = 0}).ok());
  }
  ASSERT_TRUE(PushRows(*other, keys, grads, {.stream = 5, .sequence = 1}).ok());
  std::vector<float> after = PullRows(*fixture.client, keys);
  for (std::size_t i = 0; i < after.size(); ++i) ASSERT_FLOAT_EQ(after[i], before[i] - 2.0f);
}

TEST(ClientPushTest, RateScaleScalesTheLearningRate) {
  Fixture fixture{ClusterOptions{}};
  std::vector<float> before = PullRows(*fixture.client, {7});
  ASSERT_TRUE(PushRows(*fixture.client, {7}, {1, 1, 1, 1}, {.rate_scale = 0.25f}).ok());
  EXPECT_FLOAT_EQ(PullRows(*fixture.client, {7})[0], before[0] - 0.25f);
  EXPECT_EQ(PushRows(*fixture.client, {7}, {1, 1, 1, 1}, {.rate_scale = -1.0f}).code(),
            StatusCode::kInvalidArgument);
}

TEST(ClientPushTest, ARefusedPushChangesNothingAndSaysWhere) {
  Fixture fixture{ClusterOptions{}};
  std::vector<float> before = PullRows(*fixture.client, {1, 2});
  std::vector<float> grads(8, 1.0f);
  grads[6] = std::nanf("");
  Status status = PushRows(*fixture.client, {1, 2}, grads);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("'default'"));
  EXPECT_THAT(status.message(), HasSubstr("(1, 2)"));
  // Finite each, infinite together.
  status = PushRows(*fixture.client, {2, 2}, {0, 3e38f, 0, 0, 0, 3e38f, 0, 0});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("key 2"));
  EXPECT_EQ(PullRows(*fixture.client, {1, 2}), before);
}

TEST(ClientErrorTest, TheServersThatRefuseAreNamedAndTheConnectionsLiveOn) {
  Fixture fixture{ClusterOf(2, 1, 10)};
  std::vector<Key> keys = RandomKeys(500, 500);
  std::vector<float> out(keys.size() * kDim);
  RowsPull pull{0, keys, out.data(), true};
  Status status = fixture.client->Pull({&pull, 1}, {});
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("server 0"));
  EXPECT_THAT(status.message(), HasSubstr("server 1"));
  PullRows(*fixture.client, {1, 2, 3});
  EXPECT_EQ(fixture.client->stats().retries, 0u);
}

TEST(ClientErrorTest, IdsThatDoNotExistAreNotFound) {
  Fixture fixture{ClusterOptions{}};
  std::vector<Key> keys = {1};
  std::vector<float> out(8);
  RowsPull pull{7, keys, out.data(), true};
  EXPECT_EQ(fixture.client->Pull({&pull, 1}, {}).code(), StatusCode::kNotFound);
  // One that is made later is learnt on the way.
  ASSERT_TRUE(fixture.cluster->coordinator().CreateTable(Table("later", kDim)).ok());
  pull.table = 1;
  EXPECT_TRUE(fixture.client->Pull({&pull, 1}, {}).ok());
}

TEST(ClientErrorTest, AServerThatIsGoneFailsTheCallSoonAndByName) {
  Fixture fixture{ClusterOf(2)};
  ClientOptions options = OptionsFor(*fixture.cluster, fixture.cluster->coordinator().endpoint());
  options.refused_give_up_seconds = 0.3;
  auto client = Client::Connect(std::move(options));
  ASSERT_TRUE(client.ok());
  std::vector<Key> keys = RandomKeys(100, 100);
  PullRows(**client, keys);
  fixture.cluster->CloseServer(1);
  auto started = std::chrono::steady_clock::now();
  std::vector<float> out(keys.size() * kDim);
  RowsPull pull{0, keys, out.data(), true};
  Status status = (*client)->Pull({&pull, 1}, {});
  EXPECT_EQ(status.code(), StatusCode::kConnection) << status.ToString();
  EXPECT_THAT(status.message(), HasSubstr("server 1"));
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(5));
}

TEST(ClientErrorTest, AServerOfAnotherIncarnationIsNotTakenForTheOldOne) {
  Fixture fixture{ClusterOptions{}};
  ClientOptions options = OptionsFor(*fixture.cluster, fixture.cluster->coordinator().endpoint());
  options.servers[0].incarnation = fixture.cluster->server(0).incarnation();
  EXPECT_TRUE(Client::Connect(options).ok());
  options.servers[0].incarnation += 1;
  auto client = Client::Connect(options);
  EXPECT_EQ(client.status().code(), StatusCode::kConnection);
  EXPECT_THAT(client.status().message(), HasSubstr("lost the rows"));
}

TEST(ClientErrorTest, AWrongSecretIsAnAuthenticationErrorAtOnce) {
  Fixture fixture{ClusterOptions{}};
  ClientOptions options = OptionsFor(*fixture.cluster, fixture.cluster->coordinator().endpoint());
  options.secret = "another secret, long enough";
  EXPECT_EQ(Client::Connect(options).status().code(), StatusCode::kAuthentication);
}

TEST(ClientErrorTest, ATableNamedTwiceInOnePushIsRefusedAndNothingIsSent) {
  Fixture fixture(ClusterOf(1));
  std::vector<Key> keys = DistinctKeys(3);
  std::vector<float> before = PullRows(*fixture.client, keys);
  std::vector<float> grads(keys.size() * kDim, 1.0f);
  std::vector<RowsPush> twice(2, RowsPush{0, keys, grads.data()});
  Status status = fixture.client->Push(twice, {}, {});
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("'default' is named twice"));
  EXPECT_EQ(PullRows(*fixture.client, keys), before);
}

TEST(ClientErrorTest, AFinalRefusalGivesTheClassNotAServerThatMightComeBack) {
  Fixture fixture(ClusterOf(2, 1, /*rows_max=*/10));
  std::vector<Key> keys = DistinctKeys(200);
  fixture.cluster->CloseServer(0);
  std::vector<float> out(keys.size() * kDim);
  RowsPull pull{0, keys, out.data(), true};
  Status status = fixture.client->Pull({&pull, 1}, {});
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
  EXPECT_THAT(status.message(), HasSubstr("server 0"));
  EXPECT_THAT(status.message(), HasSubstr("server 1"));
}

TEST(ClientErrorTest, AnInterruptIsHeardWhileAServerIsSilentAtTheHandshake) {
  net::SocketAddress address =
      (*net::Resolve("127.0.0.1", 0, std::chrono::steady_clock::now() + std::chrono::hours(1)))[0];
  net::Fd silent(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(silent.get(), address.get(), address.bytes), 0);
  ASSERT_EQ(::listen(silent.get(), 4), 0);
  socklen_t bytes = sizeof(address.storage);
  ::getsockname(silent.get(), reinterpret_cast<sockaddr*>(&address.storage), &bytes);
  ClientOptions options;
  int port = ntohs(reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port);
  options.servers = {{0, {"127.0.0.1", port, ""}, 0}};
  options.secret = Cluster::Secret();
  options.timeout_seconds = 3'600;
  int asked = 0;
  options.is_interrupted = [&] { return ++asked == 3; };
  EXPECT_EQ(Client::Connect(std::move(options)).status().code(), StatusCode::kClosed);
}

TEST(ClientErrorTest, AfterCloseEveryCallSaysSo) {
  Fixture fixture{ClusterOptions{}};
  PushRows(*fixture.client, {1}, {1, 1, 1, 1}).ok();
  fixture.client->Close();
  fixture.client->Close();
  EXPECT_EQ(PushRows(*fixture.client, {1}, {1, 1, 1, 1}).code(), StatusCode::kClosed);
  EXPECT_EQ(fixture.client->Refresh().code(), StatusCode::kClosed);
}

TEST(ClientControlTest, RequestsReachEveryServerOneServerAndTheCoordinator) {
  Fixture fixture{ClusterOf(3)};
  auto all = fixture.client->ControlAll(R"({"op":"describe"})", false);
  ASSERT_TRUE(all.ok()) << all.status().ToString();
  ASSERT_EQ(all->size(), 3u);
  EXPECT_EQ(nlohmann::json::parse((*all)[2])["server_id"], 2);
  auto one = fixture.client->ControlServer(1, R"({"op":"describe"})", false);
  EXPECT_EQ(nlohmann::json::parse(one.value())["server_id"], 1);
  auto servers = fixture.client->ControlCoordinator(R"({"op":"servers"})");
  ASSERT_TRUE(servers.ok()) << servers.status().ToString();
  EXPECT_EQ(nlohmann::json::parse(*servers)["servers"].size(), 3u);
  EXPECT_FALSE(fixture.client->ControlServer(3, R"({"op":"describe"})", false).ok());
}

TEST(ClientControlTest, ADefinitionIsLearntOnlyWhenEveryServerHasIt) {
  Fixture fixture{ClusterOf(3)};
  sharding::ClusterDefinition next = *fixture.cluster->coordinator().definition();
  const std::uint64_t version = next.version++;
  next.tables.push_back(Table("late", kDim));
  next.tables.back().id = 1;
  std::string define = "{\"op\":\"define\",\"definition\":" + next.ToJson() + "}";
  for (std::size_t server = 0; server < 3; ++server) {  // in the coordinator's order
    ASSERT_TRUE(fixture.client->Refresh().ok());
    EXPECT_EQ(fixture.client->definition()->version, version) << server << " servers know it";
    auto told = fixture.cluster->Connect(server)->Control(define);
    ASSERT_TRUE(told.ok()) << told.status().ToString();
  }
  ASSERT_TRUE(fixture.client->Refresh().ok());
  EXPECT_EQ(fixture.client->definition()->version, version + 1);
}

TEST(ClientThreadsTest, ThreadsShareAClient) {
  Fixture fixture{ClusterOf(2, 2)};
  std::vector<Key> keys = DistinctKeys(64);
  std::vector<float> before = PullRows(*fixture.client, keys);
  std::vector<float> grads(keys.size() * kDim, 1.0f);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 25; ++i) {
        EXPECT_TRUE(PushRows(*fixture.client, keys, grads).ok());
        PullRows(*fixture.client, keys);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<float> after = PullRows(*fixture.client, keys);
  for (std::size_t i = 0; i < after.size(); ++i) ASSERT_NEAR(after[i], before[i] - 100.0f, 1e-3);
}

#ifndef __SANITIZE_THREAD__
TEST(ClientForkTest, BothProcessesWorkOnWithConnectionsAndNumbersOfTheirOwn) {
  Fixture fixture{ClusterOf(2)};
  std::vector<Key> keys = DistinctKeys(64);
  std::vector<float> before = PullRows(*fixture.client, keys);
  std::vector<float> grads(keys.size() * kDim, 1.0f);
  ASSERT_TRUE(PushRows(*fixture.client, keys, grads).ok());
  pid_t child = ::fork();
  if (child == 0) {
    bool ok = PushRows(*fixture.client, keys, grads).ok();
    ok = ok && PullRows(*fixture.client, keys).size() == grads.size();
    fixture.client->Close();
    ::_exit(ok ? 0 : 1);
  }
  ASSERT_TRUE(PushRows(*fixture.client, keys, grads).ok());
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  // All three pushes count, and the parent's connections outlive the child.
  std::vector<float> after = PullRows(*fixture.client, keys);
  for (std::size_t i = 0; i < after.size(); ++i) ASSERT_NEAR(after[i], before[i] - 3.0f, 1e-5);
  EXPECT_EQ(fixture.client->stats().retries, 0u);
}
#endif

}  // namespace
}  // namespace ps::client
