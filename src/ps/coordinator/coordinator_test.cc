#include "ps/coordinator/coordinator.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <span>
#include <thread>

#include "ps/base/limits.h"
#include "ps/sharding/json_fields.h"
#include "ps/testing/cluster.h"
#include "ps/testing/raw_client.h"

namespace ps::coordinator {
namespace {

using sharding::Json;
using ::testing::AllOf;
using testing::Cluster;
using testing::ClusterOptions;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::unique_ptr<Cluster> StartCluster(std::uint32_t servers) {
  ClusterOptions options;
  options.servers = servers;
  Result<std::unique_ptr<Cluster>> cluster = Cluster::Start(options);
  if (!cluster.ok()) {
    ADD_FAILURE() << cluster.status().ToString();
    std::abort();
  }
  return std::move(cluster).value();
}

SteadyTime In(int in) { return Now() + std::chrono::seconds(in); }

std::vector<ServerState> States(const Coordinator& coordinator) {
  std::vector<ServerState> states;
  for (const ServerRecord& record : coordinator.Servers()) states.push_back(record.state);
  return states;
}

CoordinatorOptions Alone(std::uint32_t servers) {
  CoordinatorOptions options;
  options.bind_host = "127.0.0.1";
  options.server_count = servers;
  options.partition_count = 64;
  options.weight_optimizer = {"sgd", {}};
  options.tables = {testing::Table("default", 4)};
  options.secret = Cluster::Secret();
  return options;
}

// What each server says its definition is.
std::vector<Json> Described(const Cluster& cluster) {
  std::vector<Json> all;
  for (std::size_t i = 0; i < cluster.server_count(); ++i) {
    auto text = cluster.Connect(i)->Control("{\"op\":\"describe\"}");
    all.push_back(text.ok() ? Json::parse(*text)["definition"] : Json());
  }
  return all;
}

TEST(Coordinator, ServersShareOneDefinition) {
  auto cluster = StartCluster(3);
  Json expected = Json::parse(cluster->coordinator().definition()->ToJson());
  EXPECT_THAT(Described(*cluster), ::testing::Each(expected));
  EXPECT_EQ(expected["map"]["server_count"], 3);
  EXPECT_THAT(States(cluster->coordinator()), ::testing::Each(ServerState::kRunning));
  for (const ServerRecord& record : cluster->coordinator().Servers()) {
    EXPECT_EQ(record.endpoint.port, cluster->server(record.server_id).port());
    EXPECT_EQ(record.incarnation, cluster->server(record.server_id).incarnation());
  }
}

TEST(Coordinator, ANewTableIsOnEveryServerBeforeTheAnswer) {
  auto cluster = StartCluster(2);
  auto client = cluster->ConnectCoordinator();
  std::string request =
      "{\"op\":\"create_table\",\"table\":" + sharding::TableToJson(testing::Table("user", 8)) +
      "}";
  auto answer = client->Control(request);
  ASSERT_TRUE(answer.ok()) << answer.status().ToString();
  Json definition = Json::parse(*answer)["definition"];
  EXPECT_EQ(definition["tables"][1]["name"], "user");
  EXPECT_EQ(definition["version"], 2);
  EXPECT_THAT(Described(*cluster), ::testing::Each(definition));

  EXPECT_TRUE(client->Control(request).ok()) << "the same again: nothing";
  EXPECT_EQ(cluster->coordinator().definition()->version, 2u);

  Status other = cluster->coordinator().CreateTable(testing::Table("user", 9));
  EXPECT_EQ(other.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(other.message(), AllOf(HasSubstr("'user'"), HasSubstr("another definition")));
}

TEST(Coordinator, ATableThatServersRefuseLeavesEverythingAsItWas) {
  auto cluster = StartCluster(2);
  sharding::TableDefinition table = testing::Table("user", 8);
  table.optimizer.params["learning_rate"] = -1.0;
  Status refused = cluster->coordinator().CreateTable(table);
  EXPECT_FALSE(refused.ok());
  EXPECT_THAT(refused.message(), AllOf(HasSubstr("server 0"), HasSubstr("learning_rate")));
  EXPECT_EQ(cluster->coordinator().definition()->version, 1u);
  EXPECT_TRUE(cluster->coordinator().CreateTable(testing::Table("user", 8)).ok());
}

TEST(Coordinator, TensorsAreDefinedOnceByShape) {
  auto cluster = StartCluster(2);
  auto client = cluster->ConnectCoordinator();
  auto answer = client->Control(
      "{\"op\":\"define_tensors\",\"tensors\":[{\"name\":\"a\",\"shape\":[2,3]},"
      "{\"name\":\"b\",\"shape\":[]}]}");
  ASSERT_TRUE(answer.ok()) << answer.status().ToString();
  EXPECT_EQ(Json::parse(*answer)["created"], (Json{"a", "b"}));
  auto created = cluster->coordinator().DefineTensors({{0, "b", {}}, {0, "c", {4}}});
  ASSERT_TRUE(created.ok());
  EXPECT_THAT(*created, ElementsAre("c"));
  auto refused = cluster->coordinator().DefineTensors({{0, "d", {1}}, {0, "a", {3, 2}}});
  EXPECT_EQ(refused.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.status().message(), AllOf(HasSubstr("'a'"), HasSubstr("[2,3]")));
  EXPECT_EQ(cluster->coordinator().definition()->FindTensor("d"), nullptr);
  EXPECT_EQ(Described(*cluster)[1]["tensors"].size(), 3u);
}

TEST(Coordinator, ARepeatedDefinitionOfTensorsHearsThatItMadeThem) {
  auto cluster = StartCluster(1);
  auto define = [&](const std::string& creator) {
    auto answer = cluster->ConnectCoordinator()->Control(
        "{\"op\":\"define_tensors\",\"creator\":\"" + creator +
        "\",\"tensors\":[{\"name\":\"a\",\"shape\":[2,3]}]}");
    return answer.ok() ? Json::parse(*answer)["created"] : Json(answer.status().ToString());
  };
  EXPECT_EQ(define("one"), Json{"a"});
  EXPECT_EQ(define("one"), Json{"a"}) << "the first answer may have been lost";
  EXPECT_EQ(define("other"), Json::array());
  EXPECT_EQ(define(""), Json::array());
}

TEST(Coordinator, WaitingNamesTheServersThatAreMissing) {
  auto coordinator = Coordinator::Start(Alone(3));
  ASSERT_TRUE(coordinator.ok());
  server::ServerOptions options;
  options.server_id = 1;
  options.bind_host = "127.0.0.1";
  options.secret = Cluster::Secret();
  options.coordinator = (*coordinator)->endpoint();
  auto server = server::Server::Start(options);
  ASSERT_TRUE(server.ok());
  Status status = (*coordinator)->WaitRunning(In(0));
  EXPECT_EQ(status.code(), StatusCode::kTimeout);
  EXPECT_THAT(status.message(), HasSubstr("server 0, 2 of 3"));
  EXPECT_EQ((*coordinator)->CreateTable(testing::Table("user", 8)).code(), StatusCode::kConnection);

  auto twin = server::Server::Start(options);
  EXPECT_EQ(twin.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(twin.status().message(), HasSubstr("already"));
}

TEST(Coordinator, ALostServerIsNoticedAndNotReplaced) {
  auto cluster = StartCluster(2);
  cluster->CloseServer(1);
  SteadyTime deadline = In(10);
  while (States(cluster->coordinator())[1] != ServerState::kLost &&
         std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_THAT(States(cluster->coordinator()),
              ElementsAre(ServerState::kRunning, ServerState::kLost));
  Status status = cluster->coordinator().CreateTable(testing::Table("user", 8));
  EXPECT_EQ(status.code(), StatusCode::kConnection);
  EXPECT_THAT(status.message(), HasSubstr("server 1 was lost"));
  for (const std::string& request :
       {"{\"op\":\"create_table\",\"table\":" + sharding::TableToJson(testing::Table("user", 8)) +
            "}",
        std::string("{\"op\":\"define_tensors\",\"tensors\":[{\"name\":\"a\",\"shape\":[2]}]}")}) {
    Status refused = cluster->ConnectCoordinator()->Control(request).status();
    EXPECT_EQ(refused.code(), StatusCode::kClosed) << "a client must not repeat it";
    EXPECT_THAT(refused.message(), HasSubstr("server 1 was lost"));
  }

  server::ServerOptions options;
  options.server_id = 1;
  options.bind_host = "127.0.0.1";
  options.secret = Cluster::Secret();
  options.coordinator = cluster->coordinator().endpoint();
  EXPECT_THAT(server::Server::Start(options).status().message(), HasSubstr("not built yet"));
}

TEST(Coordinator, StopEndsEveryServer) {
  auto cluster = StartCluster(2);
  ASSERT_TRUE(cluster->coordinator().StopServers(1.0, In(10)).ok());
  EXPECT_THAT(States(cluster->coordinator()), ::testing::Each(ServerState::kStopped));
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(cluster->server(i).WaitEnded(std::chrono::seconds(5)).has_value());
  }
  EXPECT_EQ(cluster->coordinator().CreateTable(testing::Table("user", 8)).code(),
            StatusCode::kClosed);
}

// Takes connections and says nothing, as a host that has died does.
class SilentHost {
 public:
  SilentHost() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t bytes = sizeof(address);
    EXPECT_EQ(::bind(fd_, reinterpret_cast<sockaddr*>(&address), bytes), 0);
    EXPECT_EQ(::listen(fd_, 16), 0);
    ::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &bytes);
    port_ = ntohs(address.sin_port);
  }
  ~SilentHost() { ::close(fd_); }
  int port() const { return port_; }

 private:
  const int fd_ = ::socket(AF_INET, SOCK_STREAM, 0);
  int port_ = 0;
};

TEST(Coordinator, StoppingWaitsNoLongerThanItWasToldWhateverServersDo) {
  auto coordinator = Coordinator::Start(Alone(1));
  ASSERT_TRUE(coordinator.ok());
  SilentHost silent;
  auto line = testing::RawClient::Connect((*coordinator)->endpoint(), Cluster::Secret(),
                                          net::Transport::kTcp, wire::kCoordinatorId);
  ASSERT_TRUE(line.ok());
  ASSERT_TRUE(
      (*line)
          ->Control("{\"op\":\"register\",\"server_id\":0,\"host\":\"127.0.0.1\",\"port\":" +
                    std::to_string(silent.port()) +
                    ",\"unix_path\":\"\",\"incarnation\":1,\"pid\":1,\"metrics_port\":0}")
          .ok());
  // The definition is on its way to the silent host now, with 60 s to get there.
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  auto began = std::chrono::steady_clock::now();
  EXPECT_EQ((*coordinator)->StopServers(0.0, In(1)).code(), StatusCode::kTimeout);
  (*coordinator).reset();
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(20));
  auto notice = (*line)->connection().ReadFrame(In(1));
  ASSERT_TRUE(notice.ok()) << notice.status().ToString();
  EXPECT_EQ(notice->header.request_id, wire::kNoticeId);
}

TEST(Coordinator, BarriersAreAnsweredWhenTheirTimeHasComeAndEndWithTheirMembers) {
  auto cluster = StartCluster(1);
  auto driver = cluster->ConnectCoordinator();
  ASSERT_TRUE(driver->Control("{\"op\":\"create_barrier\",\"name\":\"b\",\"num_workers\":2}").ok());
  auto enter = [](testing::RawClient& client, const std::string& member) {
    return client.Control("{\"op\":\"enter_barrier\",\"name\":\"b\",\"member\":\"" + member +
                          "\",\"attempt\":\"" + member + "1\",\"timeout_seconds\":30}");
  };
  const std::string wait = "{\"op\":\"wait_barrier\",\"name\":\"b\",\"timeout_seconds\":30}";
  auto members = [&] {
    std::vector<std::future<Status>> answers;
    for (std::string member : {"m0", "m1"}) {
      answers.push_back(std::async(std::launch::async, [&, member] {
        return enter(*cluster->ConnectCoordinator(), member).status();
      }));
    }
    return answers;
  };
  auto waiting = members();
  EXPECT_TRUE(driver->Control(wait).ok());
  EXPECT_TRUE(driver->Control("{\"op\":\"release_barrier\",\"name\":\"b\"}").ok());
  for (auto& answer : waiting) EXPECT_TRUE(answer.get().ok());

  Status late =
      driver->Control("{\"op\":\"wait_barrier\",\"name\":\"b\",\"timeout_seconds\":0.01}").status();
  EXPECT_EQ(late.code(), StatusCode::kTimeout);

  // A member whose connection ends.
  auto dying = cluster->ConnectCoordinator();
  wire::FrameHeader header;
  header.type = wire::MessageType::kControl;
  header.request_id = 7;
  const std::string text =
      "{\"op\":\"enter_barrier\",\"name\":\"b\",\"member\":\"x\",\"attempt\":\"x\",\"timeout_"
      "seconds\":30}";
  auto part = std::as_bytes(std::span(text.data(), text.size()));
  ASSERT_TRUE(dying->connection().SendFrame(header, std::span(&part, 1), In(5)).ok());
  auto other = std::async(std::launch::async,
                          [&] { return enter(*cluster->ConnectCoordinator(), "m3").status(); });
  EXPECT_TRUE(driver->Control(wait).ok()) << "both are in";
  dying.reset();
  auto freed = other.get();
  EXPECT_EQ(freed.code(), StatusCode::kClosed);
  EXPECT_THAT(freed.message(), HasSubstr("member 'x' died"));

  auto last = std::async(std::launch::async,
                         [&] { return enter(*cluster->ConnectCoordinator(), "m4").status(); });
  while (driver->Control("{\"op\":\"wait_barrier\",\"name\":\"b\",\"timeout_seconds\":0}")
             .status()
             .message()
             .find("1 of 2") == std::string::npos) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_TRUE(cluster->coordinator().StopServers(0.0, In(10)).ok());
  EXPECT_EQ(last.get().code(), StatusCode::kClosed) << "the cluster's end ends the wait";
}

TEST(Coordinator, WrongRequestsAreRefused) {
  auto cluster = StartCluster(1);
  auto client = cluster->ConnectCoordinator();
  struct Case {
    const char* json;
    const char* names;
  };
  for (const Case& c : std::vector<Case>{
           {"no", "JSON"},
           {"{\"op\":\"sing\"}", "'sing'"},
           {"{\"op\":\"heartbeat\"}", "not registered"},
           {"{\"op\":\"create_table\"}", "'table'"},
           {"{\"op\":\"create_table\",\"table\":{\"name\":\"\"}}", "1 to 128"},
           {"{\"op\":\"define_tensors\",\"tensors\":[{\"name\":\"a\"}]}", "'shape'"},
           {"{\"op\":\"register\",\"server_id\":0}", "'host'"},
           {"{\"op\":\"create_barrier\",\"name\":\"b\"}", "'num_workers'"},
           {"{\"op\":\"wait_barrier\",\"name\":\"b\"}", "'timeout_seconds'"},
           {"{\"op\":\"wait_barrier\",\"name\":\"b\",\"timeout_seconds\":-1}", "timeout_seconds"},
           {"{\"op\":\"release_barrier\",\"name\":\"b\"}", "'b' does not exist"},
           {"{\"op\":\"enter_barrier\",\"name\":\"b\",\"timeout_seconds\":1}", "'member'"},
       }) {
    Status status = client->Control(c.json).status();
    EXPECT_FALSE(status.ok()) << c.json;
    EXPECT_THAT(status.message(), HasSubstr(c.names)) << c.json;
  }
  auto servers = client->Control("{\"op\":\"servers\"}");
  ASSERT_TRUE(servers.ok());
  EXPECT_EQ(Json::parse(*servers)["servers"][0]["state"], "running");
  auto described = client->Control("{\"op\":\"describe\"}");
  ASSERT_TRUE(described.ok());
  EXPECT_EQ(Json::parse(*described)["definition"]["tables"][0]["name"], "default");
}

// A control request of so many bytes that are not JSON from the first on, in frames of 16 MiB.
Status ControlInFrames(net::ClientConnection* connection, std::size_t bytes) {
  constexpr std::size_t kFrameBytes = 16u << 20;
  const std::string text(bytes, 'x');
  wire::FrameHeader header;
  header.type = wire::MessageType::kControl;
  header.request_id = connection->NextRequestId();
  for (std::size_t at = 0; at < text.size(); at += kFrameBytes) {
    header.flags = at + kFrameBytes < text.size() ? wire::kMore : 0;
    auto part = std::as_bytes(std::span(text).subspan(at, std::min(kFrameBytes, bytes - at)));
    PS_RETURN_IF_ERROR(connection->SendFrame(header, {&part, 1}, In(60)));
  }
  PS_ASSIGN_OR_RETURN(auto reply, connection->ReadFrame(In(60)));
  EXPECT_EQ(reply.header.type, wire::MessageType::kError);
  return wire::DecodeError(reply.payload);
}

TEST(Coordinator, AControlRequestOfTheLimitInSeveralFramesIsReadOneByteMoreIsNot) {
  auto coordinator = std::move(Coordinator::Start(Alone(1))).value();
  auto client = std::move(testing::RawClient::Connect(coordinator->endpoint(), Cluster::Secret(),
                                                      net::Transport::kTcp, wire::kCoordinatorId))
                    .value();
  Status read = ControlInFrames(&client->connection(), limits::kControlPayloadBytesMax);
  EXPECT_EQ(read.code(), StatusCode::kInvalidArgument) << read.ToString();
  EXPECT_TRUE(client->Control("{\"op\":\"servers\"}").ok());
  Status beyond = ControlInFrames(&client->connection(), limits::kControlPayloadBytesMax + 1);
  EXPECT_EQ(beyond.code(), StatusCode::kResourceExhausted) << beyond.ToString();
  EXPECT_FALSE(client->connection().ReadFrame(In(20)).ok()) << "the connection is closed";
}

TEST(Coordinator, LogsPeersThatItTurnsAwayWithAddressRequestAndReason) {
  CoordinatorOptions options = Alone(1);
  options.log_level = LogLevel::kWarning;
  ::testing::internal::CaptureStderr();
  auto coordinator = std::move(Coordinator::Start(options)).value();
  auto connect = [&](const std::string& secret) {
    return testing::RawClient::Connect(coordinator->endpoint(), secret, net::Transport::kTcp,
                                       wire::kCoordinatorId);
  };
  EXPECT_FALSE(connect("another secret, not this job's").ok());
  auto data = std::move(connect(Cluster::Secret())).value();
  auto request = std::move(data->Send(wire::MessageType::kPull, {testing::Sections()})).value();
  EXPECT_FALSE(data->ReadPull(request, 1).ok());
  auto garbage = std::move(connect(Cluster::Secret())).value();
  const std::string bytes = "no frame" + std::string(200, 'x');
  ASSERT_EQ(::send(garbage->connection().fd(), bytes.data(), bytes.size(), MSG_NOSIGNAL), 208);
  EXPECT_FALSE(garbage->connection().ReadFrame(In(20)).ok());
  // The one thread of the coordinator has written of it before it answers the next.
  EXPECT_TRUE(std::move(connect(Cluster::Secret())).value()->Control("{\"op\":\"servers\"}").ok());
  coordinator.reset();
  std::string log = ::testing::internal::GetCapturedStderr();
  const std::string peer = "peer=127.0.0.1:";
  EXPECT_THAT(log, HasSubstr("WARNING server=coordinator event=handshake_refused " + peer));
  EXPECT_THAT(log, HasSubstr("WARNING server=coordinator event=bad_frame " + peer));
  EXPECT_THAT(log, HasSubstr(" request=" + std::to_string(request) +
                             " why=\"the coordinator takes control requests only\""));
  EXPECT_THAT(log, HasSubstr("why=\"frame header: not a frame of this protocol"));
}

TEST(Coordinator, WrongOptionsAreRefused) {
  auto refused = [](auto change) {
    CoordinatorOptions options = Alone(2);
    change(options);
    return Coordinator::Start(options).status();
  };
  EXPECT_EQ(refused([](auto& o) { o.server_count = 0; }).code(), StatusCode::kConfiguration);
  EXPECT_FALSE(refused([](auto& o) { o.partition_count = 63; }).ok());
  EXPECT_EQ(refused([](auto& o) { o.weight_replicas = 0; }).code(), StatusCode::kConfiguration);
  EXPECT_EQ(refused([](auto& o) { o.weight_replicas = 3; }).code(), StatusCode::kConfiguration);
  EXPECT_FALSE(refused([](auto& o) { o.tables[0].dim = 0; }).ok());
  EXPECT_FALSE(refused([](auto& o) { o.tables.push_back(o.tables[0]); }).ok());
  EXPECT_FALSE(refused([](auto& o) { o.secret = "short"; }).ok());
}

}  // namespace
}  // namespace ps::coordinator
