// Dense tensors on several servers: with SGD at rate 1, gradients of one and tensors that start at
// zero, every value is minus the number of pushes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "ps/base/limits.h"
#include "ps/client/client.h"
#include "ps/testing/cluster.h"
#include "ps/testing/message_proxy.h"

namespace ps::client {
namespace {

using ps::testing::Cluster;
using ps::testing::ClusterOptions;
using ps::testing::MessageProxy;
using ps::testing::RawClient;
using ps::testing::Sections;
using ::testing::Each;
using ::testing::HasSubstr;
using Direction = MessageProxy::Direction;
using Fault = MessageProxy::Fault;

constexpr std::size_t kFloats = 9;
constexpr int kTensors = 12;

class Copies : public ::testing::Test {
 protected:
  void Start(std::uint32_t servers, std::uint32_t copies, const std::string& optimizer = "sgd") {
    ClusterOptions options;
    options.servers = servers;
    options.weight_replicas = copies;
    options.shard_threads = 2;
    options.requests_in_flight_bytes_max = 64u << 20;
    options.weight_optimizer = {optimizer, {{"learning_rate", 1.0}}};
    if (optimizer == "sgd") options.weight_optimizer.params["momentum"] = 0.0;
    auto started = Cluster::Start(options);
    ASSERT_TRUE(started.ok()) << started.status().ToString();
    cluster_ = std::move(started).value();
    for (std::uint32_t i = 0; i < servers; ++i) {
      servers_.push_back({i, cluster_->endpoint(i), cluster_->server(i).incarnation()});
    }
    client_ = NewClient();
    std::vector<sharding::TensorDefinition> tensors;
    for (int i = 0; i < kTensors; ++i) {
      sharding::TensorDefinition tensor;
      tensor.name = "tensor " + std::to_string(i);
      tensor.shape = {kFloats};
      tensors.push_back(tensor);
    }
    ASSERT_TRUE(cluster_->coordinator().DefineTensors(tensors).ok());
    ASSERT_TRUE(client_->Refresh().ok());
    nlohmann::json init{{"op", "init_tensors"}, {"tensors", nlohmann::json::array()}};
    for (int i = 0; i < kTensors; ++i) {
      init["tensors"].push_back({{"id", i}, {"init", "zeros"}, {"scale", 0.0}});
    }
    auto replies = client_->ControlAll(init.dump(), true);
    ASSERT_TRUE(replies.ok()) << replies.status().ToString();
  }

  std::unique_ptr<Client> NewClient(double timeout_seconds = 60.0) {
    ClientOptions options;
    options.servers = servers_;
    options.coordinator = cluster_->coordinator().endpoint();
    options.secret = Cluster::Secret();
    options.timeout_seconds = timeout_seconds;
    auto connected = Client::Connect(std::move(options));
    EXPECT_TRUE(connected.ok()) << connected.status().ToString();
    return std::move(connected).value();
  }

  static Status PushOnes(Client& client, std::vector<int> tensors = {}) {
    static const std::vector<float> ones(kFloats, 1.0f);
    if (tensors.empty()) {
      for (int i = 0; i < kTensors; ++i) tensors.push_back(i);
    }
    std::vector<TensorPush> pushes;
    for (int tensor : tensors) pushes.push_back({static_cast<TensorId>(tensor), ones});
    return client.Push({}, pushes, {});
  }

  static std::vector<float> Pull(Client& client, int tensor) {
    std::vector<float> out(kFloats, -99.0f);
    TensorPull pull{static_cast<TensorId>(tensor), out.data()};
    Status status = client.Pull({}, {&pull, 1});
    EXPECT_TRUE(status.ok()) << status.ToString();
    return out;
  }

  sharding::Copies placed() const { return cluster_->coordinator().definition()->weight_copies; }
  ServerId HomeOf(int tensor) const {
    auto definition = cluster_->coordinator().definition();
    return sharding::ServerOfChunk(definition->map, definition->tensors[tensor].salt(), 0);
  }
  int TensorOf(ServerId home) const {
    for (int i = 0; i < kTensors; ++i) {
      if (HomeOf(i) == home) return i;
    }
    ADD_FAILURE() << "no tensor has home " << home;
    return 0;
  }
  // As that server holds it.
  std::vector<float> PullFrom(ServerId server, int tensor) {
    auto sections =
        cluster_->Connect(server)->Pull({Sections().PullChunk(static_cast<TensorId>(tensor), 0)});
    EXPECT_TRUE(sections.ok()) << sections.status().ToString();
    return sections.ok() ? (*sections)[0].values : std::vector<float>();
  }

  // Gives a server a newer definition by hand, as the coordinator does.
  void Define(ServerId server, const nlohmann::json& definition, const nlohmann::json& servers) {
    nlohmann::json request{{"op", "define"}, {"definition", definition}};
    if (!servers.empty()) request["servers"] = servers;
    auto reply = cluster_->Connect(server)->Control(request.dump());
    ASSERT_TRUE(reply.ok()) << reply.status().ToString();
  }
  nlohmann::json NextDefinition() const {
    auto definition = nlohmann::json::parse(cluster_->coordinator().definition()->ToJson());
    definition["version"] = definition["version"].get<int>() + 1;
    return definition;
  }
  // From now on `server` finds `other` at that port.
  void Redirect(ServerId server, ServerId other, int port) {
    nlohmann::json servers = nlohmann::json::array();
    for (const ServerAddress& address : servers_) {
      servers.push_back({{"server_id", address.server_id},
                         {"host", "127.0.0.1"},
                         {"port", address.server_id == other ? port : address.endpoint.port},
                         {"unix_path", ""},
                         {"incarnation", address.incarnation}});
    }
    Define(server, nlohmann::json::parse(cluster_->coordinator().definition()->ToJson()), servers);
  }

  std::unique_ptr<Cluster> cluster_;
  std::vector<ServerAddress> servers_;
  std::unique_ptr<Client> client_;
};

TEST_F(Copies, AnAcknowledgedPushIsOnEveryServerOfTheChain) {
  for (const char* optimizer : {"sgd", "adam"}) {
    SCOPED_TRACE(optimizer);
    servers_.clear();
    client_.reset();
    cluster_.reset();
    Start(3, 3, optimizer);
    std::vector<std::thread> pushers;
    for (int thread = 0; thread < 3; ++thread) {
      pushers.emplace_back([&, thread] {
        auto client = NewClient();
        for (int i = 0; i < 20; ++i) {
          Status status = PushOnes(*client, thread == 0 ? std::vector<int>{} : std::vector{i % 7});
          EXPECT_TRUE(status.ok()) << status.ToString();
        }
      });
    }
    for (std::thread& pusher : pushers) pusher.join();
    for (int tensor = 0; tensor < kTensors; ++tensor) {
      const std::vector<float> owned = PullFrom(HomeOf(tensor), tensor);
      for (ServerId server = 0; server < 3; ++server) {
        EXPECT_EQ(PullFrom(server, tensor), owned) << "tensor " << tensor << " on " << server;
      }
      const bool is_counted = tensor > 6 && optimizer == std::string("sgd");
      if (is_counted) {
        EXPECT_THAT(owned, Each(-20.0f));
      }
    }
  }
}

TEST_F(Copies, NoAcknowledgedPushIsLostWithAServerAndARetriedOneCountsOnce) {
  Start(4, 2);
  std::atomic<int> acknowledged{0};
  std::atomic<bool> is_ending{false};
  std::vector<std::thread> pushers;
  for (int thread = 0; thread < 3; ++thread) {
    pushers.emplace_back([&] {
      auto client = NewClient();
      while (!is_ending) {
        Status status = PushOnes(*client);
        EXPECT_TRUE(status.ok()) << status.ToString();
        if (!status.ok()) is_ending = true;
        acknowledged += status.ok();
      }
    });
  }
  const auto wait_for_more = [&](int pushes) {
    const int enough = acknowledged + pushes;
    while (acknowledged < enough && !is_ending) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  };
  wait_for_more(50);
  cluster_->CloseServer(1);
  wait_for_more(50);
  is_ending = true;
  for (std::thread& pusher : pushers) pusher.join();
  auto late = NewClient();
  for (int tensor = 0; tensor < kTensors; ++tensor) {
    EXPECT_THAT(Pull(*client_, tensor), Each(-static_cast<float>(acknowledged))) << tensor;
    EXPECT_THAT(Pull(*late, tensor), Each(-static_cast<float>(acknowledged))) << tensor;
  }
  // Its rows are gone, and say so.
  std::vector<Key> keys(200);
  for (std::size_t i = 0; i < keys.size(); ++i) keys[i] = i;
  std::vector<float> rows(keys.size() * 4);
  RowsPull pull{0, keys, rows.data()};
  Status status = late->Pull({&pull, 1}, {});
  EXPECT_EQ(status.code(), StatusCode::kConnection);
  EXPECT_THAT(status.message(), HasSubstr("server 1"));
}

TEST_F(Copies, OfThreeCopiesTwoServersMayBeLostOneAfterTheOther) {
  Start(4, 3);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(PushOnes(*client_).ok());
  cluster_->CloseServer(2);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(PushOnes(*client_).ok());
  cluster_->CloseServer(3);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(PushOnes(*client_).ok());
  for (int tensor = 0; tensor < kTensors; ++tensor) {
    EXPECT_THAT(Pull(*client_, tensor), Each(-15.0f)) << tensor;
  }
}

TEST_F(Copies, TheLossOfAllCopiesIsAnErrorThatNamesTheServer) {
  Start(3, 2);
  cluster_->CloseServer(1);
  ASSERT_TRUE(PushOnes(*client_).ok());
  cluster_->CloseServer(2);
  Status status = PushOnes(*client_, {TensorOf(1)});
  EXPECT_EQ(status.code(), StatusCode::kConnection);
  EXPECT_THAT(status.message(), HasSubstr("server"));
  EXPECT_TRUE(PushOnes(*client_, {TensorOf(2)}).ok());
}

class CopiesCut : public Copies,
                  public ::testing::WithParamInterface<std::pair<Direction, Fault>> {};

INSTANTIATE_TEST_SUITE_P(Faults, CopiesCut,
                         ::testing::Values(std::pair{Direction::kToServer, Fault::kCutBefore},
                                           std::pair{Direction::kToServer, Fault::kCutAmid},
                                           std::pair{Direction::kToServer, Fault::kCutAfter},
                                           std::pair{Direction::kToServer, Fault::kDuplicate},
                                           std::pair{Direction::kToClient, Fault::kCutBefore},
                                           std::pair{Direction::kToClient, Fault::kCutAmid},
                                           std::pair{Direction::kToClient, Fault::kCutAfter}));

TEST_P(CopiesCut, BetweenOwnerAndFollowerLosesNothingAndRepeatsNothing) {
  Start(2, 2);
  MessageProxy proxy(cluster_->server(1).port());
  Redirect(0, 1, proxy.port());
  auto [direction, fault] = GetParam();
  const int tensor = TensorOf(0);
  float pushes = 0;
  for (int nth = 0; nth < 8; ++nth) {
    proxy.Strike(direction, fault, nth % 3);
    for (int i = 0; i < 3; ++i) {
      Status status = PushOnes(*client_, {tensor});
      ASSERT_TRUE(status.ok()) << status.ToString();
      ++pushes;
      EXPECT_THAT(PullFrom(1, tensor), Each(-pushes));
    }
    proxy.TakeBack();
  }
  EXPECT_THAT(PullFrom(0, tensor), Each(-pushes));
}

TEST_F(Copies, AnOwnerThatCannotReachItsFollowerAcknowledgesWhenThatIsDeclaredLost) {
  Start(2, 2);
  Redirect(0, 1, 1);  // nobody listens there
  const int tensor = TensorOf(0);
  auto hasty = NewClient(1.0);
  Status status = PushOnes(*hasty, {tensor});
  EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.ToString();
  EXPECT_THAT(PullFrom(1, tensor), Each(0.0f));
  cluster_->CloseServer(1);
  status = PushOnes(*client_, {tensor});
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_THAT(Pull(*client_, tensor), Each(-2.0f));
}

TEST_F(Copies, AServerThatWasDeclaredLostCannotAcknowledgeAndEnds) {
  Start(2, 2);
  const int tensor = TensorOf(0);
  ASSERT_TRUE(PushOnes(*client_, {tensor}).ok());
  nlohmann::json next = NextDefinition();
  next["lost"] = {0};
  auto hasty = NewClient(2.0);
  Define(1, next, {});  // neither server 0 nor the client hears of it
  (void)PushOnes(*hasty, {tensor});
  EXPECT_TRUE(cluster_->server(0).WaitEnded(std::chrono::seconds(30)).has_value());
  ASSERT_TRUE(PushOnes(*client_, {tensor}).ok());
  // The first, the last, and the one between when it was retried at the new owner.
  const std::vector<float> value = Pull(*client_, tensor);
  EXPECT_TRUE(value[0] == -2.0f || value[0] == -3.0f) << value[0];
}

// A push has one number at all homes; its client may hear of a loss before a server does.
TEST_F(Copies, ADoneNumberOfOneHomeIsNotTakenForThatOfAnother) {
  Start(3, 2);
  auto raw = cluster_->Connect(2);
  const auto push = [&](ServerId home) {
    const auto tensor = static_cast<TensorId>(TensorOf(home));
    const std::vector<float> ones(kFloats, 1.0f);
    return raw->Push(/*stream=*/77, /*sequence=*/1, {Sections().PushChunk(tensor, 0, ones)});
  };
  ASSERT_TRUE(push(2).ok());
  EXPECT_EQ(push(1).code(), StatusCode::kConnection) << "server 2 does not own it yet";
  EXPECT_THAT(PullFrom(2, TensorOf(1)), Each(0.0f));
  nlohmann::json next = NextDefinition();
  next["lost"] = {1};
  Define(2, next, {});
  EXPECT_TRUE(push(1).ok());
  EXPECT_THAT(PullFrom(2, TensorOf(1)), Each(-1.0f));
}

TEST_F(Copies, PullsAreSpreadOverTheCopies) {
  Start(2, 2);
  const auto pulls = [&](ServerId server) {
    auto stats = nlohmann::json::parse(cluster_->server(server).StatsJson());
    return stats["latency_ms"]["pull"]["count"].get<int>();
  };
  const int tensor = TensorOf(0);
  for (int i = 0; i < 64; ++i) {
    auto client = NewClient();
    EXPECT_THAT(Pull(*client, tensor), Each(0.0f));
  }
  EXPECT_GT(pulls(0), 8);
  EXPECT_GT(pulls(1), 8);
}

TEST_F(Copies, StatisticsCountEachTensorOnce) {
  Start(3, 3);
  int tensors = 0;
  for (ServerId server = 0; server < 3; ++server) {
    tensors += nlohmann::json::parse(cluster_->server(server).StatsJson())["weights"].get<int>();
  }
  EXPECT_EQ(tensors, kTensors);
}

TEST_F(Copies, ATensorThatIsDefinedAndHasNoValuesYetCanBeLeftOut) {
  Start(2, 2);
  sharding::TensorDefinition tensor;
  tensor.name = "about to get values";
  tensor.shape = {2 * limits::kTensorChunkFloats};
  ASSERT_TRUE(cluster_->coordinator().DefineTensors({tensor}).ok());
  std::shared_ptr<const TensorValue> absent = std::make_shared<TensorValue>();
  std::shared_ptr<const TensorValue> present;
  std::vector<TensorPull> pulls{{kTensors, nullptr, &absent, true}, {0, nullptr, &present, true}};
  ASSERT_TRUE(client_->Pull({}, pulls).ok());
  EXPECT_EQ(absent, nullptr);
  ASSERT_NE(present, nullptr);
  EXPECT_EQ(present->values[0], 0.0f);
  pulls[0].if_present = false;
  EXPECT_EQ(client_->Pull({}, pulls).code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace ps::client
