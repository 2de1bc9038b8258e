#include "ps/coordinator/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "ps/sharding/json_fields.h"
#include "ps/testing/cluster.h"

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

SteadyTime In(int seconds) {
  return std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
}

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

TEST(Coordinator, WrongOptionsAreRefused) {
  auto refused = [](auto change) {
    CoordinatorOptions options = Alone(2);
    change(options);
    return Coordinator::Start(options).status();
  };
  EXPECT_EQ(refused([](auto& o) { o.server_count = 0; }).code(), StatusCode::kConfiguration);
  EXPECT_FALSE(refused([](auto& o) { o.partition_count = 63; }).ok());
  EXPECT_FALSE(refused([](auto& o) { o.tables[0].dim = 0; }).ok());
  EXPECT_FALSE(refused([](auto& o) { o.tables.push_back(o.tables[0]); }).ok());
  EXPECT_FALSE(refused([](auto& o) { o.secret = "short"; }).ok());
}

}  // namespace
}  // namespace ps::coordinator
