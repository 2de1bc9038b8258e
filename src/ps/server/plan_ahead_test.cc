#include "ps/server/plan_ahead.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <span>
#include <string>
#include <thread>

#include "ps/server/server_test.h"

namespace ps::server {
namespace {

using ::testing::HasSubstr;
using testing::Sections;

constexpr std::uint64_t kStream = 1;

SteadyTime Soon() { return std::chrono::steady_clock::now() + std::chrono::seconds(20); }

// A push of two frames, and what is done between them by someone else.
class PlanAheadTest : public ::testing::TestWithParam<int> {
 protected:
  // The push's first frame, known to have arrived.
  void SendFirst(const Sections& frame) { SendFrame(frame, wire::kMore); }
  Status SendLast(const Sections& frame) {
    SendFrame(frame, 0);
    return client_->ReadPush(kRequest);
  }
  void WaitUntilArrived() {
    const auto deadline = Soon();
    // The push, and the question.
    while (Stats(*other_)["requests_in_flight"] < 2 &&
           std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
  }
  Floats Rows(const std::vector<Key>& keys) {
    return Value(other_->PullRows(0, kDim, keys, /*create=*/false));
  }
  static Sections Ones(const std::vector<Key>& keys) {
    return Sections().PushRows(0, kDim, keys, Grads(keys.size(), 1.0f));
  }

  std::unique_ptr<testing::Cluster> cluster_ = StartCluster(WithThreads(GetParam()));
  std::unique_ptr<testing::RawClient> client_ = cluster_->Connect();
  std::unique_ptr<testing::RawClient> other_ = cluster_->Connect();

 private:
  static constexpr std::uint64_t kRequest = 1;

  void SendFrame(const Sections& frame, std::uint16_t flags) {
    wire::FrameHeader header;
    header.type = wire::MessageType::kPush;
    header.request_id = kRequest;
    header.stream = kStream;
    header.flags = flags;
    std::span<const std::byte> payload(frame.bytes());
    ASSERT_TRUE(client_->connection().SendFrame(header, {&payload, 1}, Soon()).ok());
  }
};
INSTANTIATE_TEST_SUITE_P(Threads, PlanAheadTest, ::testing::Values(1, 2, 4));

TEST_P(PlanAheadTest, RowsThatGoWhileAPushArrivesAreMadeAnew) {
  const std::vector<Key> keys = Range(0, 400);
  const Floats initial = Value(other_->PullRows(0, kDim, keys));
  ASSERT_TRUE(other_->Push(2, 0, {Ones(keys)}).ok());
  SendFirst(Ones(Range(0, 200)));
  WaitUntilArrived();
  EXPECT_EQ(Value(other_->Control("{\"op\":\"decay\",\"method\":\"prune\",\"min_count\":100}")),
            "{\"pruned\":400}");
  // Others in the place of those that were there.
  Value(other_->PullRows(0, kDim, Range(1'000, 400)));
  ASSERT_TRUE(SendLast(Ones(Range(200, 200))).ok());

  const Floats rows = Rows(keys);
  for (std::size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(rows[i], initial[i] - 1.0f) << i;
  EXPECT_EQ(Stats(*other_)["embeddings"], 800);
}

TEST_P(PlanAheadTest, RowsMadeAndPushedWhileAPushArrivesArePushedOnceMore) {
  const std::vector<Key> keys = Range(0, 300);
  SendFirst(Ones(Range(0, 200)));
  WaitUntilArrived();
  const Floats initial = Value(other_->PullRows(0, kDim, keys));
  ASSERT_TRUE(other_->Push(2, 0, {Ones(keys)}).ok());
  ASSERT_TRUE(SendLast(Ones(Range(200, 100))).ok());

  const Floats rows = Rows(keys);
  for (std::size_t i = 0; i < rows.size(); ++i) ASSERT_EQ(rows[i], initial[i] - 1.0f - 1.0f) << i;
  EXPECT_EQ(Stats(*other_)["embeddings"], 300);
}

TEST_P(PlanAheadTest, AFrameThatCannotBeChangesNothingWhereverItStands) {
  Sections wrong;
  wrong.PushRows(0, kDim + 1, {1}, Floats(kDim + 1, 1.0f));
  for (const bool is_first : {true, false}) {
    client_ = cluster_->Connect();
    SendFirst(is_first ? wrong : Ones(Range(0, 200)));
    WaitUntilArrived();
    const Status status = SendLast(is_first ? Ones(Range(0, 200)) : wrong);
    EXPECT_THAT(Refusal(status, StatusCode::kInvalidArgument), HasSubstr("dim"));
    EXPECT_EQ(Stats(*other_)["embeddings"], 0);
  }
}

TEST_P(PlanAheadTest, APushThatEndsHalfWayLeavesNothing) {
  SendFirst(Ones(Range(0, 200)));
  WaitUntilArrived();
  client_.reset();
  const auto deadline = Soon();
  while (Stats(*other_)["requests_in_flight"] > 1 && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_EQ(Stats(*other_)["requests_in_flight"], 1);
  EXPECT_EQ(Stats(*other_)["embeddings"], 0);
}

}  // namespace
}  // namespace ps::server
