#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "ps/server/server_test.h"

namespace ps::server {
namespace {

using testing::ClusterOptions;
using ::testing::Each;
using ::testing::HasSubstr;
using testing::PulledSection;
using testing::Sections;

class DataRequestsOverThreads : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, DataRequestsOverThreads, ::testing::Values(1, 2, 4));

TEST_P(DataRequestsOverThreads, PullCreatesRowsAndRepeatsThem) {
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
TEST(DataRequests, ThreadsDoNotChangeResults) {
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

TEST_P(DataRequestsOverThreads, ARequestOfManyFramesIsAnsweredPartByPart) {
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

TEST_P(DataRequestsOverThreads, RequestsOfAConnectionAreServedInOrder) {
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

TEST_P(DataRequestsOverThreads, ARepeatedPushIsAppliedOnce) {
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

TEST(DataRequests, APushWithoutAStreamIsRefused) {
  auto cluster = StartCluster();
  auto client = cluster->Connect();
  Status status = client->Push(0, 1, {Sections().PushRows(0, kDim, {1}, Grads(1, 1.0f))});
  EXPECT_THAT(Refusal(status, StatusCode::kInvalidArgument), HasSubstr("stream 0"));
  EXPECT_EQ(Stats(*client)["embeddings"], 0);
}

}  // namespace
}  // namespace ps::server
