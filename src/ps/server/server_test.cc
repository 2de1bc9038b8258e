#include "ps/server/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <thread>

#include "ps/base/limits.h"
#include "ps/base/random.h"
#include "ps/net/listener.h"
#include "ps/sharding/json_fields.h"
#include "ps/testing/cluster.h"

namespace ps::server {
namespace {

using sharding::Json;
using ::testing::AllOf;
using testing::Cluster;
using testing::ClusterOptions;
using ::testing::Each;
using ::testing::HasSubstr;
using testing::PulledSection;
using testing::RawClient;
using testing::Sections;
using Floats = std::vector<float>;

constexpr std::uint32_t kDim = 4;  // of the table "default"

std::unique_ptr<Cluster> StartCluster(const ClusterOptions& options = {}) {
  Result<std::unique_ptr<Cluster>> cluster = Cluster::Start(options);
  if (!cluster.ok()) {
    ADD_FAILURE() << cluster.status().ToString();
    std::abort();
  }
  return std::move(cluster).value();
}

ClusterOptions WithThreads(int threads) {
  ClusterOptions options;
  options.shard_threads = threads;
  return options;
}

std::vector<Key> Range(Key first, std::size_t count) {
  std::vector<Key> keys(count);
  std::iota(keys.begin(), keys.end(), first);
  return keys;
}

Floats Grads(std::size_t keys, float value) { return Floats(keys * kDim, value); }

template <typename T>
T Value(Result<T> result) {
  if (!result.ok()) {
    ADD_FAILURE() << result.status().ToString();
    return T{};
  }
  return std::move(result).value();
}

Json Stats(RawClient& client) {
  return Json::parse(Value(client.Control("{\"op\":\"stats\"}")), nullptr, false);
}

std::string Refusal(const Status& status, StatusCode code) {
  EXPECT_EQ(status.code(), code) << status.ToString();
  return status.message();
}

class ServerThreads : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, ServerThreads, ::testing::Values(1, 2, 4));

TEST_P(ServerThreads, PullCreatesRowsAndRepeatsThem) {
  auto cluster = StartCluster(WithThreads(GetParam()));
  auto client = cluster->Connect();
  std::vector<Key> keys = Range(0, 1'000);
  Floats zeros = Value(client->PullRows(0, kDim, keys, /*create=*/false));
  EXPECT_THAT(zeros, Each(0.0f));
  EXPECT_EQ(Stats(*client)["embeddings"], 0);

  Floats first = Value(client->PullRows(0, kDim, keys));
  EXPECT_EQ(first.size(), keys.size() * kDim);
  EXPECT_EQ(Value(client->PullRows(0, kDim, keys)), first);
  EXPECT_EQ(Value(cluster->Connect()->PullRows(0, kDim, keys, false)), first);
  EXPECT_EQ(Stats(*client)["embeddings"], 1'000);

  Floats repeated = Value(client->PullRows(0, kDim, {7, 3, 7}));
  EXPECT_EQ(Floats(repeated.begin(), repeated.begin() + kDim),
            Floats(repeated.begin() + 2 * kDim, repeated.end()));
  EXPECT_EQ(Floats(repeated.begin(), repeated.begin() + kDim),
            Floats(first.begin() + 7 * kDim, first.begin() + 8 * kDim));
}

// The same requests give the same bits whatever the number of shard threads.
TEST(Server, ThreadsDoNotChangeResults) {
  auto run = [](int threads) {
    ClusterOptions options = WithThreads(threads);
    options.tables = {testing::Table("default", kDim), testing::Table("wide", 33)};
    options.tables[1].optimizer = {"adagrad", {}};
    auto cluster = StartCluster(options);
    auto client = cluster->Connect();
    for (std::uint64_t i = 0; i < 3; ++i) {
      std::vector<Key> keys = Range(i * 100, 500);
      Floats wide(keys.size() * 33);
      for (std::size_t k = 0; k < wide.size(); ++k) wide[k] = std::sin(static_cast<float>(k + i));
      EXPECT_TRUE(client
                      ->Push(1, i,
                             {Sections()
                                  .PushRows(0, kDim, keys, Grads(keys.size(), 0.25f), 0.5f)
                                  .PushRows(1, 33, keys, wide)})
                      .ok());
    }
    std::vector<Key> keys = Range(0, 900);
    auto sections = Value(client->Pull({Sections().PullRows(1, 33, keys).PullRows(0, kDim, keys)}));
    Floats all = sections[0].values;
    all.insert(all.end(), sections[1].values.begin(), sections[1].values.end());
    return all;
  };
  Floats one = run(1);
  EXPECT_EQ(run(2), one);
  EXPECT_EQ(run(4), one);
}

TEST_P(ServerThreads, ARequestOfManyFramesIsAnsweredPartByPart) {
  auto cluster = StartCluster(WithThreads(GetParam()));
  auto client = cluster->Connect();
  std::vector<Key> keys = Range(0, 900);
  Floats whole = Value(client->PullRows(0, kDim, keys));
  std::vector<Sections> frames;
  for (Key first = 0; first < 900; first += 100) {
    frames.push_back(Sections().PullRows(0, kDim, Range(first, 60)));
    frames.back().PullRows(0, kDim, Range(first + 60, 40));
  }
  frames.push_back(Sections());                        // nothing asked for
  frames.push_back(Sections().PullRows(0, kDim, {}));  // no keys
  auto sections = Value(client->Pull(frames));
  ASSERT_EQ(sections.size(), 19u);
  Floats joined;
  for (const PulledSection& section : sections) {
    joined.insert(joined.end(), section.values.begin(), section.values.end());
  }
  EXPECT_EQ(joined, whole);

  std::vector<Sections> pushes;
  for (Key first = 0; first < 900; first += 100) {
    pushes.push_back(Sections().PushRows(0, kDim, Range(first, 100), Grads(100, 1.0f)));
  }
  ASSERT_TRUE(client->Push(1, 0, pushes).ok());
  Floats after = Value(client->PullRows(0, kDim, keys));
  for (std::size_t i = 0; i < after.size(); ++i) ASSERT_EQ(after[i], whole[i] - 1.0f) << i;
}

TEST_P(ServerThreads, RequestsOfAConnectionAreServedInOrder) {
  auto cluster = StartCluster(WithThreads(GetParam()));
  auto client = cluster->Connect();
  std::vector<Key> keys = Range(0, 200);
  Floats value = Value(client->PullRows(0, kDim, keys));
  std::vector<std::uint64_t> pushes;
  std::vector<std::uint64_t> pulls;
  for (std::uint64_t i = 0; i < 50; ++i) {
    pushes.push_back(Value(client->Send(
        wire::MessageType::kPush, {Sections().PushRows(0, kDim, keys, Grads(200, 1.0f))}, 3, i)));
    pulls.push_back(
        Value(client->Send(wire::MessageType::kPull, {Sections().PullRows(0, kDim, keys)})));
  }
  // Answers of different requests may overtake each other on the way out; contents may not.
  std::map<std::uint64_t, Floats> pulled;
  for (std::size_t i = 0; i < 100; ++i) {
    auto frame = Value(client->connection().ReadFrame(std::chrono::steady_clock::now() +
                                                      std::chrono::seconds(20)));
    if (frame.header.type != wire::MessageType::kPullReply) continue;
    auto views = Value(wire::DecodeSections(frame.header.type, frame.payload));
    pulled[frame.header.request_id] = {views[0].floats.begin(), views[0].floats.end()};
  }
  ASSERT_EQ(pulled.size(), 50u);
  for (std::uint64_t id : pulls) {
    for (float& v : value) v -= 1.0f;
    ASSERT_EQ(pulled[id], value);
  }
}

TEST_P(ServerThreads, ARepeatedPushIsAppliedOnce) {
  auto cluster = StartCluster(WithThreads(GetParam()));
  auto client = cluster->Connect();
  std::vector<Key> keys = Range(0, 100);
  Floats before = Value(client->PullRows(0, kDim, keys));
  std::vector<Sections> push = {Sections().PushRows(0, kDim, keys, Grads(100, 1.0f))};
  ASSERT_TRUE(client->Push(9, 4, push).ok());
  ASSERT_TRUE(client->Push(9, 4, push).ok());
  ASSERT_TRUE(cluster->Connect()->Push(9, 4, push).ok());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      auto other = cluster->Connect();
      for (std::uint64_t s = 5; s < 25; ++s) EXPECT_TRUE(other->Push(9, s, push).ok());
    });
  }
  for (std::thread& thread : threads) thread.join();
  Floats after = Value(client->PullRows(0, kDim, keys));
  for (std::size_t i = 0; i < after.size(); ++i) {
    float expected = before[i];
    for (int n = 0; n < 21; ++n) expected -= 1.0f;
    ASSERT_EQ(after[i], expected) << i;
  }
}

TEST(Server, APushWithoutAStreamIsRefused) {
  auto cluster = StartCluster();
  auto client = cluster->Connect();
  Status status = client->Push(0, 1, {Sections().PushRows(0, kDim, {1}, Grads(1, 1.0f))});
  EXPECT_THAT(Refusal(status, StatusCode::kInvalidArgument), HasSubstr("stream 0"));
  EXPECT_EQ(Stats(*client)["embeddings"], 0);
}

TEST_P(ServerThreads, AtTheRowLimitARequestIsDoneWhollyOrNotAtAll) {
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
TEST_P(ServerThreads, ConcurrentRequestsNeverPassTheRowLimit) {
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

TEST(Server, WrongRequestsNameWhatIsWrongAndChangeNothing) {
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

TEST(Server, MalformedSectionsAreRefusedAndTheServerLivesOn) {
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

TEST(Server, AReplyThatNoFrameCanHoldIsRefused) {
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

TEST(Server, APeerOutsideTheProtocolLosesItsConnectionOnly) {
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

TEST(Server, RepliesOnTheirWayToASlowReaderCountAsInFlight) {
  constexpr std::size_t kPulls = 60;  // of 1 MiB each
  ClusterOptions options;
  options.unix_sockets = true;
  options.requests_in_flight_bytes_max = 6u << 20;
  options.tables = {testing::Table("default", 1'024)};
  auto cluster = StartCluster(options);
  auto client = cluster->Connect();
  Sections pull;
  pull.PullRows(0, 1'024, Range(0, 256));
  std::vector<std::uint64_t> ids;
  for (std::size_t i = 0; i < kPulls; ++i) {
    ids.push_back(Value(client->Send(wire::MessageType::kPull, {pull})));
  }
  auto watcher = cluster->Connect();
  // All are served or refused: none is waiting to be read.
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  auto refused = [&] { return Stats(*watcher)["refusals_total"].get<std::size_t>(); };
  while (refused() < kPulls / 2 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }

  std::size_t served = 0;
  for (std::uint64_t id : ids) {
    auto sections = client->ReadPull(id, 1);
    if (sections.ok()) {
      ++served;
    } else {
      EXPECT_THAT(Refusal(sections.status(), StatusCode::kConnection), HasSubstr("busy"));
    }
  }
  EXPECT_GE(served, 4u);
  EXPECT_LE(served, 12u) << "6 MiB may wait, and the socket holds some";
  EXPECT_TRUE(client->Pull({pull}).ok()) << "all is given back";
}

TEST(Server, RequestsUnderWayAreBounded) {
  ClusterOptions options;
  options.message_bytes_max = 1u << 20;
  options.requests_in_flight_bytes_max = 2u << 20;
  auto cluster = StartCluster(options);
  auto client = cluster->Connect();
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  Sections frame = Sections().PullRows(0, kDim, Range(0, 100'000), false);  // 0.8 MB, reply 1.6 MB
  EXPECT_TRUE(client->Pull(std::vector<Sections>(3, frame)).ok()) << "large, but alone";
  Status never = client->Pull(std::vector<Sections>(45, frame)).status();
  EXPECT_THAT(Refusal(never, StatusCode::kResourceExhausted), HasSubstr("less at once"));

  // Two that begin and stop: one takes the place of large requests, one most of what is shared.
  auto begin = [&](int frames) {
    auto holder = cluster->Connect();
    wire::FrameHeader header;
    header.type = wire::MessageType::kPull;
    header.request_id = 1;
    header.flags = wire::kMore;
    std::span<const std::byte> part(frame.bytes());
    for (int i = 0; i < frames; ++i) {
      EXPECT_TRUE(holder->connection().SendFrame(header, {&part, 1}, deadline).ok());
    }
    return holder;
  };
  std::size_t frame_bytes = frame.bytes().size();
  auto received = [&] { return Stats(*client)["bytes_received_total"].get<std::size_t>(); };
  std::size_t before = received();
  auto large = begin(3);
  while (received() < before + 3 * frame_bytes) std::this_thread::yield();
  auto other = begin(2);
  while (received() < before + 5 * frame_bytes) std::this_thread::yield();
  Sections small = Sections().PullRows(0, kDim, Range(0, 60'000), false);
  EXPECT_THAT(Refusal(client->Pull({small}).status(), StatusCode::kConnection), HasSubstr("busy"));
  other.reset();  // gives back what it held
  while (!client->Pull({small}).ok() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_TRUE(client->Pull({small}).ok());
}

class ServerTensors : public ::testing::TestWithParam<int> {
 protected:
  void Define(std::vector<sharding::TensorDefinition> tensors) {
    Value(cluster_->coordinator().DefineTensors(std::move(tensors)));
  }

  std::unique_ptr<Cluster> cluster_ = StartCluster(WithThreads(GetParam()));
  std::unique_ptr<RawClient> client_ = cluster_->Connect();
};
INSTANTIATE_TEST_SUITE_P(Threads, ServerTensors, ::testing::Values(1, 3));

TEST_P(ServerTensors, ChunksAreAssignedTrainedAndSentWhenChanged) {
  Define({{0, "kernel", {2, 3}}, {0, "bias", {}}});
  EXPECT_THAT(Refusal(client_->Pull({Sections().PullChunk(0, 0)}).status(), StatusCode::kNotFound),
              HasSubstr("'kernel' has no values yet"));
  EXPECT_EQ(client_->Push(1, 0, {Sections().PushChunk(0, 0, Floats(6, 1))}).code(),
            StatusCode::kNotFound);

  Floats kernel = {1, 2, 3, 4, 5, 6};
  Sections assign = Sections().AssignChunk(0, 0, kernel).AssignChunk(1, 0, {7});
  ASSERT_TRUE(client_->Push(1, 0, {assign}).ok());
  auto pulled = Value(client_->Pull({Sections().PullChunk(1, 0).PullChunk(0, 0)}));
  ASSERT_EQ(pulled.size(), 2u);
  EXPECT_EQ(pulled[0].values, Floats{7});
  EXPECT_EQ(pulled[1].values, kernel);

  auto again = Value(client_->Pull(
      {Sections().PullChunk(0, 0, pulled[1].head.version).PullRows(0, kDim, {5}).PullChunk(1, 0)}));
  ASSERT_EQ(again.size(), 3u);
  EXPECT_TRUE(again[0].values.empty()) << "unchanged: not sent";
  EXPECT_EQ(again[0].head.version, pulled[1].head.version);
  EXPECT_EQ(again[1].values, Value(client_->PullRows(0, kDim, {5})));
  EXPECT_EQ(again[2].values, Floats{7});

  ASSERT_TRUE(client_->Push(1, 1, {Sections().PushChunk(0, 0, Floats(6, 0.5f))}).ok());
  auto trained = Value(client_->Pull({Sections().PullChunk(0, 0, pulled[1].head.version)}));
  EXPECT_EQ(trained[0].values, (Floats{0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f}));
  EXPECT_GT(trained[0].head.version, pulled[1].head.version);

  ASSERT_TRUE(
      client_->Push(1, 2, {Sections().AssignChunk(1, 0, {8}, /*only_if_absent=*/true)}).ok());
  EXPECT_EQ(Value(client_->Pull({Sections().PullChunk(1, 0)}))[0].values, Floats{7});
}

TEST_P(ServerTensors, WrongChunksAreRefused) {
  Define({{0, "kernel", {6}}});
  EXPECT_THAT(Refusal(client_->Push(1, 0, {Sections().AssignChunk(0, 0, {1, 2})}),
                      StatusCode::kInvalidArgument),
              AllOf(HasSubstr("'kernel' has 6 values"), HasSubstr("brings 2")));
  EXPECT_THAT(Refusal(client_->Push(1, 0, {Sections().AssignChunk(0, 1, {})}),
                      StatusCode::kInvalidArgument),
              HasSubstr("chunk 1"));
}

TEST_P(ServerTensors, InitialValuesDoNotDependOnThreads) {
  constexpr std::uint64_t kFloats = limits::kTensorChunkFloats + 100;
  Define({{0, "big", {kFloats}}, {0, "ones", {3}}});
  std::string init =
      "{\"op\":\"init_tensors\",\"tensors\":[{\"id\":0,\"init\":\"normal\",\"scale\":0.5},"
      "{\"id\":1,\"init\":\"ones\",\"scale\":0}]}";
  EXPECT_EQ(Value(client_->Control(init)), "{}");
  auto pulled = Value(client_->Pull(
      {Sections().PullChunk(0, 0), Sections().PullChunk(0, 1), Sections().PullChunk(1, 0)}));
  ASSERT_EQ(pulled.size(), 3u);
  Floats all = pulled[0].values;
  all.insert(all.end(), pulled[1].values.begin(), pulled[1].values.end());
  Floats expected(kFloats);
  FillInitial({InitKind::kNormal, 0.5f}, ClusterOptions().seed, HashBytes("big"), 0, 0, expected);
  EXPECT_EQ(all, expected);
  EXPECT_EQ(pulled[2].values, Floats(3, 1.0f));
  Json stats = Stats(*client_);
  EXPECT_EQ(stats["weights"], 2);
  EXPECT_EQ(stats["parameters"], kFloats + 3);

  EXPECT_EQ(client_->Control("{\"op\":\"init_tensors\",\"tensors\":[{\"id\":2}]}").status().code(),
            StatusCode::kInvalidArgument);
}

TEST_P(ServerThreads, DecayAndPruneRunBetweenRequests) {
  auto cluster = StartCluster(WithThreads(GetParam()));
  auto client = cluster->Connect();
  std::vector<Key> kept = Range(0, 3'000);
  std::vector<Key> rare = Range(10'000, 3'000);
  Floats before = Value(client->PullRows(0, kDim, kept));
  EXPECT_TRUE(client->PullRows(0, kDim, rare).ok());
  ASSERT_TRUE(
      client->Push(1, 0, {Sections().PushRows(0, kDim, kept, Grads(kept.size(), 0.0f))}).ok());
  EXPECT_EQ(Value(client->Control("{\"op\":\"decay\",\"method\":\"multiply\",\"factor\":0.5}")),
            "{\"pruned\":0}");
  Floats halved = Value(client->PullRows(0, kDim, kept));
  for (std::size_t i = 0; i < halved.size(); ++i) ASSERT_EQ(halved[i], before[i] * 0.5f);

  std::atomic<bool> stop{false};
  std::thread others([&] {
    auto other = cluster->Connect();
    for (std::uint64_t i = 0; !stop; ++i) {
      EXPECT_TRUE(other->PullRows(0, kDim, kept).ok());
      EXPECT_TRUE(
          other->Push(2, i, {Sections().PushRows(0, kDim, kept, Grads(kept.size(), 0.0f))}).ok());
    }
  });
  // Counts: 2 * 0.5 = 1 of those kept (more by now), 1 * 0.5 of the rare ones.
  std::string pruned =
      Value(client->Control("{\"op\":\"decay\",\"method\":\"prune\",\"min_count\":1}"));
  EXPECT_EQ(pruned, "{\"pruned\":3000}");
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(client->Control("{\"op\":\"decay\",\"method\":\"multiply\",\"factor\":1}").ok());
  }
  stop = true;
  others.join();
  Json stats = Stats(*client);
  EXPECT_EQ(stats["embeddings"], 3'000);
  EXPECT_EQ(stats["tables"]["default"]["pruned_total"], 3'000);
  EXPECT_EQ(Value(client->PullRows(0, kDim, kept)), halved);
}

TEST_P(ServerThreads, PruneAndRequestsAtTheLimitDoNotShutEachOtherOut) {
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

TEST(Server, WrongControlRequestsAreRefused) {
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

TEST(Server, ANumberedControlRequestTakesEffectOnceAndAnswersAlike) {
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

TEST_P(ServerThreads, StatisticsAddUp) {
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

TEST_P(ServerThreads, StoppingAmidRequestsEndsCleanly) {
  ClusterOptions options = WithThreads(GetParam());
  options.rows_max = 2'000;  // some take the exact way
  auto cluster = StartCluster(options);
  std::vector<std::thread> threads;
  std::atomic<int> served{0};
  for (std::uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&served, t, client = cluster->Connect()] {
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
