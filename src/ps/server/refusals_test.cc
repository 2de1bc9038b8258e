#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "ps/base/limits.h"
#include "ps/server/server_test.h"

namespace ps::server {
namespace {

using ::testing::AllOf;
using testing::ClusterOptions;
using ::testing::HasSubstr;
using testing::Sections;

TEST(RefusedRequests, WrongRequestsNameWhatIsWrongAndChangeNothing) {
  ClusterOptions options = WithThreads(2);
  options.servers = 2;
  auto cluster = StartCluster(options);
  auto client = cluster->Connect(0);
  auto definition = cluster->coordinator().definition();
  std::uint64_t salt = definition->tables[0].salt();
  std::vector<Key> here;
  std::vector<Key> elsewhere;
  for (Key key = 0; here.size() < 20 || elsewhere.empty(); ++key) {
    (definition->map.ServerOf(salt, key) == 0 ? here : elsewhere).push_back(key);
  }
  std::vector<Key> mixed = here;
  mixed.push_back(elsewhere[0]);

  std::uint64_t sequence = 0;
  auto push = [&](Sections bad) {
    bad.PushRows(0, kDim, here, Grads(here.size(), 1.0f));
    return client->Push(1, sequence++, {Sections(), bad});
  };
  EXPECT_THAT(Refusal(push(Sections().PushRows(5, kDim, here, Grads(here.size(), 1))),
                      StatusCode::kInvalidArgument),
              HasSubstr("table number 5"));
  EXPECT_THAT(
      Refusal(push(Sections().PushRows(0, 3, {here[0]}, {1, 2, 3})), StatusCode::kInvalidArgument),
      AllOf(HasSubstr("'default'"), HasSubstr("dim 4"), HasSubstr("says 3")));
  EXPECT_THAT(Refusal(push(Sections().PushRows(0, kDim, mixed, Grads(mixed.size(), 1))),
                      StatusCode::kInvalidArgument),
              AllOf(HasSubstr("key " + std::to_string(elsewhere[0])), HasSubstr("server 1")));
  EXPECT_THAT(Refusal(push(Sections().PushChunk(3, 0, {1})), StatusCode::kInvalidArgument),
              HasSubstr("dense tensor number 3"));
  EXPECT_EQ(
      client->Pull({Sections().PullRows(0, kDim, here).PullRows(1, kDim, here)}).status().code(),
      StatusCode::kInvalidArgument);
  EXPECT_EQ(Stats(*client)["embeddings"], 0);
  EXPECT_EQ(Stats(*client)["errors_total"], 5);
  EXPECT_TRUE(client->PullRows(0, kDim, here).ok()) << "the connection lives on";
}

TEST(RefusedRequests, MalformedSectionsAreRefusedAndTheServerLivesOn) {
  auto cluster = StartCluster(WithThreads(2));
  auto client = cluster->Connect();
  auto send = [&](std::vector<std::byte> payload) {
    wire::FrameHeader header;
    header.type = wire::MessageType::kPull;
    header.request_id = client->connection().NextRequestId();
    std::span<const std::byte> part(payload);
    auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    EXPECT_TRUE(client->connection().SendFrame(header, {&part, 1}, deadline).ok());
    return client->ReadPull(header.request_id, 1).status();
  };
  std::vector<std::byte> good = Sections().PullRows(0, kDim, Range(0, 10)).bytes();
  for (std::size_t cut : {1, 8, 31, 33, 100}) {
    std::vector<std::byte> bytes(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(cut));
    EXPECT_EQ(send(bytes).code(), StatusCode::kDataCorruption) << cut;
  }
  for (std::size_t at = 0; at < wire::kSectionHeadBytes; ++at) {
    std::vector<std::byte> bytes = good;
    bytes[at] = std::byte{0xff};
    (void)send(bytes);  // refused, or harmless; never a crash
  }
  EXPECT_EQ(send(good).code(), StatusCode::kOk);
}

TEST(RefusedRequests, AReplyThatNoFrameCanHoldIsRefused) {
  ClusterOptions options;
  options.message_bytes_max = 65'536;
  options.tables = {testing::Table("default", limits::kEmbeddingDimMax)};
  auto cluster = StartCluster(options);
  auto client = cluster->Connect();
  constexpr std::uint32_t kWide = limits::kEmbeddingDimMax;
  EXPECT_EQ(Value(client->PullRows(0, kWide, {1})).size(), kWide) << "one row always fits";
  Status status = client->PullRows(0, kWide, Range(0, 9)).status();
  EXPECT_THAT(Refusal(status, StatusCode::kInvalidArgument), HasSubstr("fewer keys"));
  EXPECT_EQ(Stats(*client)["embeddings"], 1);
}

TEST(RefusedRequests, APeerOutsideTheProtocolLosesItsConnectionOnly) {
  auto cluster = StartCluster();
  auto good = cluster->Connect();
  auto bad = cluster->Connect();
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  wire::FrameHeader header;
  header.type = wire::MessageType::kPull;
  header.request_id = 1;
  header.flags = wire::kMore;
  std::vector<std::byte> bytes = Sections().PullRows(0, kDim, {1}).bytes();
  std::span<const std::byte> part(bytes);
  ASSERT_TRUE(bad->connection().SendFrame(header, {&part, 1}, deadline).ok());
  header.request_id = 2;  // amid the frames of request 1
  ASSERT_TRUE(bad->connection().SendFrame(header, {&part, 1}, deadline).ok());
  auto reply = bad->connection().ReadFrame(deadline);
  if (reply.ok()) {
    EXPECT_EQ(reply->header.type, wire::MessageType::kError);
    EXPECT_FALSE(bad->connection().ReadFrame(deadline).ok());
  }
  EXPECT_TRUE(good->PullRows(0, kDim, {1}).ok());
}

TEST(RefusedRequests, WrongControlRequestsAreRefused) {
  auto cluster = StartCluster();
  auto client = cluster->Connect();
  struct Case {
    const char* json;
    const char* names;
  };
  for (const Case& c : std::vector<Case>{
           {"", "JSON"},
           {"[]", "object"},
           {"{}", "'op'"},
           {"{\"op\":\"dance\"}", "'dance'"},
           {"{\"op\":\"decay\",\"method\":\"divide\"}", "'divide'"},
           {"{\"op\":\"decay\",\"method\":\"multiply\",\"factor\":0}", "0 < factor"},
           {"{\"op\":\"decay\",\"method\":\"multiply\",\"factor\":1.5}", "factor"},
           {"{\"op\":\"decay\",\"method\":\"prune\",\"min_count\":-1}", "min_count"},
           {"{\"op\":\"end_streams\",\"streams\":[\"12x\"]}", "12x"},
           {"{\"op\":\"end_streams\",\"streams\":[12]}", "string"},
           {"{\"op\":\"stop\"}", "grace_seconds"},
           {"{\"op\":\"define\",\"definition\":{}}", "version"},
       }) {
    Status status = client->Control(c.json).status();
    EXPECT_FALSE(status.ok()) << c.json;
    EXPECT_THAT(status.message(), HasSubstr(c.names)) << c.json;
  }
  EXPECT_TRUE(client->PullRows(0, kDim, {1}).ok());
}

TEST(RefusedRequests, ANumberedControlRequestTakesEffectOnceAndAnswersAlike) {
  auto cluster = StartCluster();
  auto client = cluster->Connect();
  ASSERT_TRUE(client->PullRows(0, kDim, Range(0, 10)).ok());
  std::string prune = "{\"op\":\"decay\",\"method\":\"prune\",\"min_count\":2}";
  EXPECT_EQ(Value(client->ControlOnce(5, 0, prune)), "{\"pruned\":10}");
  ASSERT_TRUE(client->PullRows(0, kDim, Range(0, 10)).ok());
  EXPECT_EQ(Value(cluster->Connect()->ControlOnce(5, 0, prune)), "{\"pruned\":10}");
  EXPECT_EQ(Stats(*client)["embeddings"], 10);
  EXPECT_TRUE(client->Control("{\"op\":\"end_streams\",\"streams\":[\"5\"]}").ok());
  EXPECT_EQ(client->ControlOnce(5, 0, prune).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(Value(client->ControlOnce(6, 0, prune)), "{\"pruned\":10}");
  EXPECT_EQ(Stats(*client)["embeddings"], 0);
}

}  // namespace
}  // namespace ps::server
