#include "ps/server/push_ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <map>
#include <random>
#include <set>
#include <thread>

namespace ps::server {
namespace {

using Decision = PushLedger::Decision;
using ::testing::HasSubstr;

void Ignore(const Status&, const std::string&) {}

class PushLedgerTest : public ::testing::Test {
 protected:
  Decision Begin(std::uint64_t stream, std::uint64_t sequence) {
    Result<PushLedger::Outcome> outcome = ledger_.Begin(stream, sequence, Ignore);
    EXPECT_TRUE(outcome.ok()) << outcome.status().ToString();
    return outcome.ok() ? outcome->decision : Decision::kWait;
  }
  bool RunOnce(std::uint64_t stream, std::uint64_t sequence) {
    if (Begin(stream, sequence) != Decision::kRun) return false;
    ledger_.Commit(stream, sequence);
    return true;
  }

  ManualClock clock_;
  PushLedger ledger_{&clock_, /*window=*/8, /*streams_max=*/3};
};

TEST_F(PushLedgerTest, EachNumberRunsOnce) {
  for (std::uint64_t s : {0, 1, 2, 3}) EXPECT_TRUE(RunOnce(1, s));
  for (std::uint64_t s : {3, 0, 1, 2}) EXPECT_FALSE(RunOnce(1, s));
  EXPECT_TRUE(RunOnce(2, 0)) << "another stream has numbers of its own";
}

TEST_F(PushLedgerTest, StreamZeroIsRefused) {
  EXPECT_EQ(ledger_.Begin(0, 1, Ignore).status().code(), StatusCode::kInvalidArgument);
}

TEST_F(PushLedgerTest, ARefusedNumberMayRunAgain) {
  EXPECT_EQ(Begin(1, 5), Decision::kRun);
  ledger_.Abort(1, 5, ResourceExhausted("full"));
  EXPECT_EQ(Begin(1, 5), Decision::kRun);
  ledger_.Commit(1, 5);
  EXPECT_EQ(Begin(1, 5), Decision::kDone);
}

TEST_F(PushLedgerTest, SequencesMaySkipAndComeOutOfOrderInsideTheWindow) {
  EXPECT_TRUE(RunOnce(1, 100));
  EXPECT_TRUE(RunOnce(1, 93)) << "100 - 7: the window's lower edge";
  EXPECT_FALSE(RunOnce(1, 93));
  EXPECT_FALSE(RunOnce(1, 92)) << "below the window: done";
  EXPECT_TRUE(RunOnce(1, 101));
  EXPECT_FALSE(RunOnce(1, 93)) << "now below the window";
  EXPECT_TRUE(RunOnce(1, 94));
}

TEST_F(PushLedgerTest, AJumpClearsTheWindowItPassesOver) {
  for (std::uint64_t s = 0; s < 8; ++s) EXPECT_TRUE(RunOnce(1, s));
  EXPECT_TRUE(RunOnce(1, 1'000'003));
  for (std::uint64_t s = 999'996; s < 1'000'003; ++s) EXPECT_TRUE(RunOnce(1, s)) << s;
  for (std::uint64_t s = 999'990; s <= 1'000'003; ++s) EXPECT_FALSE(RunOnce(1, s)) << s;
}

TEST_F(PushLedgerTest, ANumberInProgressHoldsTheWindow) {
  EXPECT_EQ(Begin(1, 10), Decision::kRun);
  EXPECT_TRUE(RunOnce(1, 17)) << "8 in flight: 10 to 17";
  Result<PushLedger::Outcome> beyond = ledger_.Begin(1, 18, Ignore);
  EXPECT_EQ(beyond.status().code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(beyond.status().message(), HasSubstr("sequence 10 is still in progress"));
  ledger_.Commit(1, 10);
  EXPECT_TRUE(RunOnce(1, 18));
  EXPECT_FALSE(RunOnce(1, 17));
}

TEST_F(PushLedgerTest, DuplicatesWaitForTheOutcomeAndGetIt) {
  std::vector<std::string> answers;
  auto waiter = [&](const Status& status, const std::string& answer) {
    answers.push_back(status.ok() ? answer : status.message());
  };
  EXPECT_EQ(ledger_.Begin(1, 0, waiter)->decision, Decision::kRun);
  EXPECT_EQ(ledger_.Begin(1, 0, waiter)->decision, Decision::kWait);
  EXPECT_EQ(ledger_.Begin(1, 0, waiter)->decision, Decision::kWait);
  EXPECT_TRUE(answers.empty());
  ledger_.Abort(1, 0, ResourceExhausted("full"));
  EXPECT_THAT(answers, ::testing::ElementsAre("full", "full"));

  EXPECT_EQ(ledger_.Begin(1, 0, waiter)->decision, Decision::kRun);
  EXPECT_EQ(ledger_.Begin(1, 0, waiter)->decision, Decision::kWait);
  ledger_.Commit(1, 0, "{\"pruned\":3}");
  EXPECT_EQ(answers.back(), "{\"pruned\":3}");
  EXPECT_EQ(ledger_.Begin(1, 0, waiter)->answer, "{\"pruned\":3}");
}

TEST_F(PushLedgerTest, OnlyTheLatestAnswersAreKept) {
  for (std::uint64_t s = 0; s < PushLedger::kAnswersKeptMax; ++s) {
    EXPECT_EQ(Begin(1, s), Decision::kRun);
    ledger_.Commit(1, s, std::to_string(s));
  }
  EXPECT_EQ(ledger_.Begin(1, 0, Ignore)->answer, "0");
  EXPECT_EQ(Begin(1, 8), Decision::kRun);
  ledger_.Commit(1, 8, "8");
  EXPECT_EQ(Begin(1, 1), Decision::kDone);
  EXPECT_EQ(ledger_.Begin(1, 1, Ignore)->answer, "1");
  EXPECT_EQ(ledger_.Begin(1, 8, Ignore)->answer, "8");
}

TEST_F(PushLedgerTest, WhenFullOnlyALongIdleStreamMakesRoom) {
  for (std::uint64_t stream : {1, 2, 3}) EXPECT_TRUE(RunOnce(stream, 0));
  EXPECT_EQ(ledger_.Begin(4, 0, Ignore).status().code(), StatusCode::kResourceExhausted);
  clock_.Advance(PushLedger::kStreamIdleMin);
  EXPECT_FALSE(RunOnce(1, 0)) << "known, and now the most recently used";
  EXPECT_TRUE(RunOnce(4, 0)) << "takes the place of 2";
  EXPECT_FALSE(RunOnce(1, 0));
  EXPECT_EQ(ledger_.stream_count(), 3u);
}

TEST_F(PushLedgerTest, AStreamWithSomethingInProgressKeepsItsPlace) {
  EXPECT_EQ(Begin(1, 0), Decision::kRun);
  EXPECT_TRUE(RunOnce(2, 0));
  EXPECT_TRUE(RunOnce(3, 0));
  clock_.Advance(PushLedger::kStreamIdleMin);
  EXPECT_TRUE(RunOnce(4, 0));
  ledger_.Commit(1, 0);
  EXPECT_FALSE(RunOnce(1, 0));
}

TEST_F(PushLedgerTest, AnEndedStreamTakesNoFurtherNumber) {
  EXPECT_TRUE(RunOnce(2, 0));
  ledger_.End(std::vector<std::uint64_t>{2, 77});
  EXPECT_EQ(ledger_.Begin(2, 0, Ignore).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ledger_.Begin(2, 1, Ignore).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ledger_.Begin(77, 5, Ignore).status().code(), StatusCode::kInvalidArgument)
      << "a stream that was never seen here";
}

TEST_F(PushLedgerTest, WhatIsInProgressWhenAStreamEndsIsFinished) {
  EXPECT_EQ(Begin(1, 0), Decision::kRun);
  ledger_.End(std::vector<std::uint64_t>{1});
  EXPECT_EQ(Begin(1, 0), Decision::kWait);
  ledger_.Commit(1, 0);
  EXPECT_EQ(ledger_.Begin(1, 0, Ignore).status().code(), StatusCode::kInvalidArgument);
}

// Against a plain set: sequences drawn around a moving point, never further apart than the window.
TEST_F(PushLedgerTest, AgreesWithASetOfDoneNumbers) {
  std::mt19937 random(1);
  std::set<std::uint64_t> done;
  std::uint64_t highest = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::uint64_t low = highest < 7 ? 0 : highest - 7;
    std::uint64_t sequence = low + random() % 10;
    bool first = done.insert(sequence).second;
    ASSERT_EQ(RunOnce(9, sequence), first) << sequence << " at highest " << highest;
    highest = std::max(highest, sequence);
  }
}

TEST(PushLedger, FullWindowOfTheProgramFits) {
  PushLedger ledger(&Clock::System());
  for (std::uint64_t s = 0; s < limits::kLedgerWindow; ++s) {
    ASSERT_EQ(ledger.Begin(1, s, Ignore)->decision, Decision::kRun);
  }
  EXPECT_FALSE(ledger.Begin(1, limits::kLedgerWindow, Ignore).ok());
}

TEST(PushLedger, ConcurrentDuplicatesRunOnce) {
  PushLedger ledger(&Clock::System());
  constexpr int kThreads = 4;
  constexpr std::uint64_t kSequences = 2'000;
  std::vector<std::atomic<int>> runs(kSequences);
  std::atomic<int> answered{0};
  auto work = [&] {
    for (std::uint64_t s = 0; s < kSequences; ++s) {
      auto outcome = ledger.Begin(1, s, [&](const Status& status, const std::string&) {
        EXPECT_TRUE(status.ok());
        ++answered;
      });
      if (!outcome.ok()) continue;  // another thread is far ahead
      if (outcome->decision == Decision::kWait) continue;
      if (outcome->decision == Decision::kRun) {
        ++runs[s];
        ledger.Commit(1, s);
      }
      ++answered;
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  for (std::uint64_t s = 0; s < kSequences; ++s) EXPECT_LE(runs[s].load(), 1) << s;
  EXPECT_GT(answered.load(), 0);
}

}  // namespace
}  // namespace ps::server
