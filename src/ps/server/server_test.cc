#include "ps/server/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "ps/net/listener.h"
#include "ps/server/server_test.h"

namespace ps::server {
namespace {

using testing::Cluster;
using testing::ClusterOptions;
using ::testing::HasSubstr;
using testing::RawClient;
using testing::Sections;

class ServerLifeOverThreads : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, ServerLifeOverThreads, ::testing::Values(1, 2, 4));

TEST(Server, OverUnixSocketsTooAndNoFileStays) {
  ClusterOptions options = WithThreads(2);
  options.unix_sockets = true;
  auto cluster = StartCluster(options);
  std::string path = cluster->server(0).unix_path();
  ASSERT_FALSE(path.empty());
  auto client = cluster->Connect();
  EXPECT_TRUE(client->connection().over_unix());
  EXPECT_TRUE(client->PullRows(0, kDim, Range(0, 100)).ok());
  cluster->server(0).Stop(Duration::zero());
  EXPECT_FALSE(std::filesystem::exists(path));
}

ServerOptions Alone() {
  ServerOptions options;
  options.bind_host = "127.0.0.1";
  options.shard_threads = 2;
  options.secret = Cluster::Secret();
  return options;
}

std::unique_ptr<RawClient> ConnectTo(const Server& server) {
  return Value(RawClient::Connect({"127.0.0.1", server.port(), ""}, Cluster::Secret(),
                                  net::Transport::kTcp));
}

TEST(Server, BeforeItsDefinitionAServerAsksToTryAgain) {
  auto server = Value(Server::Start(Alone()));
  auto client = ConnectTo(*server);
  EXPECT_EQ(client->PullRows(0, kDim, {1}).status().code(), StatusCode::kConnection);
  EXPECT_EQ(client->Control("{\"op\":\"describe\"}").status().code(), StatusCode::kConnection);

  sharding::ClusterDefinition definition;
  definition.version = 1;
  definition.weight_optimizer = {"sgd", {}};
  definition.map = Value(sharding::BuildPartitionMap(1, 10, 16));
  definition.tables.push_back(testing::Table("default", kDim));
  auto define = [&](const sharding::ClusterDefinition& d) {
    return client->Control("{\"op\":\"define\",\"definition\":" + d.ToJson() + "}").status();
  };
  ASSERT_TRUE(define(definition).ok());
  EXPECT_TRUE(client->PullRows(0, kDim, {1}).ok());
  EXPECT_TRUE(define(definition).ok()) << "the same again";

  sharding::ClusterDefinition other = definition;
  other.tables.push_back(testing::Table("user", 2));
  other.tables[1].id = 1;
  EXPECT_THAT(Refusal(define(other), StatusCode::kInvalidArgument), HasSubstr("version 1"));
  other.version = 2;
  other.tables[0].dim = 5;
  EXPECT_THAT(Refusal(define(other), StatusCode::kInvalidArgument), HasSubstr("'default'"));
  other.tables[0].dim = kDim;
  other.tables[1].optimizer = {"sgd", {{"learning_rite", 1.0}}};
  EXPECT_THAT(Refusal(define(other), StatusCode::kInvalidArgument), HasSubstr("learning_rite"));
  EXPECT_FALSE(client->PullRows(1, 2, {1}).ok());
  other.tables[1] = testing::Table("user", 2);
  other.tables[1].id = 1;
  EXPECT_TRUE(define(other).ok());
  EXPECT_TRUE(client->PullRows(1, 2, {1}).ok());
  Json described = Json::parse(Value(client->Control("{\"op\":\"describe\"}")));
  EXPECT_EQ(described["server_id"], 0);
  EXPECT_EQ(described["definition"]["version"], 2);
}

TEST(Server, WrongOptionsAreRefused) {
  auto refused = [](auto change) {
    ServerOptions options = Alone();
    change(options);
    return Server::Start(options).status();
  };
  EXPECT_EQ(refused([](ServerOptions& o) { o.shard_threads = 0; }).code(),
            StatusCode::kConfiguration);
  EXPECT_EQ(refused([](ServerOptions& o) { o.driver_silence_seconds = 0; }).code(),
            StatusCode::kConfiguration);
  EXPECT_EQ(refused([](ServerOptions& o) { o.requests_in_flight_bytes_max = 1; }).code(),
            StatusCode::kConfiguration);
  EXPECT_FALSE(refused([](ServerOptions& o) { o.secret = "short"; }).ok());
}

TEST(Server, AStopRequestIsAnsweredAndEndsTheServer) {
  auto server = Value(Server::Start(Alone()));
  EXPECT_EQ(server->WaitEnded(Duration::zero()), std::nullopt);
  auto client = ConnectTo(*server);
  EXPECT_EQ(Value(client->Control("{\"op\":\"stop\",\"grace_seconds\":5}")), "{}");
  auto reason = server->WaitEnded(std::chrono::seconds(10));
  ASSERT_TRUE(reason.has_value());
  EXPECT_THAT(*reason, HasSubstr("stop request"));
  EXPECT_FALSE(client->Control("{\"op\":\"stats\"}").ok());
  server->Stop(Duration::zero());
  server->Stop(Duration::zero());
}

TEST_P(ServerLifeOverThreads, StoppingAmidRequestsEndsCleanly) {
  ClusterOptions options = WithThreads(GetParam());
  options.rows_max = 2'000;  // some take the exact way
  auto cluster = StartCluster(options);
  std::vector<std::thread> threads;
  std::atomic<int> served{0};
  for (std::uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&served, client = cluster->Connect()] {
      for (std::uint64_t i = 0;; ++i) {
        auto pulled = client->PullRows(0, kDim, Range(i * 100, 300));
        if (!pulled.ok() && pulled.status().code() == StatusCode::kConnection) return;
        Status status =
            client->Control("{\"op\":\"decay\",\"method\":\"prune\",\"min_count\":2}").status();
        if (!status.ok()) return;
        ++served;
      }
    });
  }
  while (served < 30) std::this_thread::yield();
  cluster->server(0).Stop(GetParam() == 2 ? Duration::zero() : Duration(std::chrono::seconds(2)));
  for (std::thread& thread : threads) thread.join();
}

TEST(Server, EndsWhenTheCoordinatorIsGone) {
  auto cluster = StartCluster();
  cluster->CloseCoordinator();
  auto reason = cluster->server(0).WaitEnded(std::chrono::seconds(8));
  ASSERT_TRUE(reason.has_value());
  EXPECT_THAT(*reason, HasSubstr("driver has gone"));
}

// Answers the registration, and then nothing more.
class SilentCoordinator : public net::FrameHandler {
 public:
  void OnFrame(const net::ConnectionPtr& connection, net::Frame frame) override {
    if (answered_.exchange(true)) return;
    net::Buffer payload(2);
    std::memcpy(payload.data(), "{}", 2);
    wire::FrameHeader header;
    header.type = wire::MessageType::kControlReply;
    header.request_id = frame.header.request_id;
    connection->Send(header, std::move(payload));
  }
  void OnClose(const net::ConnectionPtr&, const Status&) override {}

 private:
  std::atomic<bool> answered_{false};
};

TEST(Server, LogsABadFrameOnceWithItsPeerAndReason) {
  ServerOptions options = Alone();
  options.log_level = LogLevel::kInfo;
  ::testing::internal::CaptureStderr();
  auto server = Value(Server::Start(options));
  auto client = ConnectTo(*server);
  const std::string garbage = "no frame" + std::string(200, 'x');
  ASSERT_EQ(::send(client->connection().fd(), garbage.data(), garbage.size(), MSG_NOSIGNAL), 208);
  EXPECT_FALSE(client->connection().ReadFrame(SteadyTime::max()).ok());
  Json stats = Json::parse(server->StatsJson());
  EXPECT_EQ(stats.at("bad_frames_total"), 1);
  EXPECT_EQ(stats.at("stalled_total"), 0);
  server.reset();
  std::string log = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("WARNING server=0 event=bad_frame peer=127.0.0.1:"));
  EXPECT_THAT(log, HasSubstr("why=\"frame header: not a frame of this protocol"));
  EXPECT_EQ(log.find("event=bad_frame"), log.rfind("event=bad_frame"));
}

TEST(Server, EndsWhenTheDriverIsSilent) {
  SilentCoordinator silent;
  asio::io_context context(1);
  net::ListenerOptions listen;
  listen.host = "127.0.0.1";
  listen.secret = Cluster::Secret();
  listen.identity = {wire::kCoordinatorId, 1};
  auto listener = Value(net::Listener::Start(listen, {&context}, &silent));
  std::thread thread([&] { context.run(); });
  ServerOptions options = Alone();
  options.coordinator = {"127.0.0.1", listener->port(), ""};
  options.driver_silence_seconds = 1.5;
  auto server = Value(Server::Start(options));
  EXPECT_EQ(server->WaitEnded(std::chrono::milliseconds(1'000)), std::nullopt);
  auto reason = server->WaitEnded(std::chrono::seconds(8));
  ASSERT_TRUE(reason.has_value());
  EXPECT_THAT(*reason, HasSubstr("driver_silence_seconds"));
  listener->Stop();
  context.stop();
  thread.join();
}

TEST(Server, WhileItEndsItGoesOnBeatingAndDoesNotOutliveItsDriver) {
  auto cluster = StartCluster([] {
    ClusterOptions options;
    options.driver_silence_seconds = 2.0;
    return options;
  }());
  // Half a request keeps the server from ending before its grace has passed.
  auto client = cluster->Connect();
  wire::FrameHeader header;
  header.type = wire::MessageType::kPull;
  header.flags = wire::kMore;
  header.request_id = 1;
  Sections sections;
  sections.PullRows(0, kDim, {1});
  std::span<const std::byte> part(sections.bytes());
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  ASSERT_TRUE(client->connection().SendFrame(header, std::span(&part, 1), deadline).ok());
  while (Json::parse(cluster->server(0).StatsJson()).value("requests_in_flight", 1) == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  auto now = std::chrono::steady_clock::now();
  EXPECT_EQ(cluster->coordinator().StopServers(60.0, now + std::chrono::seconds(4)).code(),
            StatusCode::kTimeout)
      << "after twice the silence that is allowed it is still there";
  cluster->CloseCoordinator();
  auto reason = cluster->server(0).WaitEnded(std::chrono::seconds(20));
  ASSERT_TRUE(reason.has_value()) << "the grace was for a driver that waits";
  EXPECT_THAT(*reason, HasSubstr("stop request"));
}

TEST(Server, WithTheWrongSecretItDoesNotStart) {
  auto cluster = StartCluster();
  ServerOptions options = Alone();
  options.coordinator = cluster->coordinator().endpoint();
  options.secret = "another secret, long enough";
  auto started = std::chrono::steady_clock::now();
  EXPECT_EQ(Server::Start(options).status().code(), StatusCode::kAuthentication);
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(5));
}

}  // namespace
}  // namespace ps::server
