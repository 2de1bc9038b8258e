#include "ps/server/row_gate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace ps::server {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class RowGateTest : public ::testing::Test {
 protected:
  auto Note(const std::string& what) {
    return [this, what] { events_.push_back(what); };
  }
  auto NoteDecision(const std::string& what) {
    return [this, what](RowGate::Decision decision) {
      constexpr const char* kSigns[] = {"+", "-", " again"};
      events_.push_back(what + kSigns[static_cast<int>(decision)]);
    };
  }

  store::RowBudget budget_{10};
  RowGate gate_{&budget_};
  std::vector<std::string> events_;
};

TEST_F(RowGateTest, AnOverReservationInFlightRefusesNobody) {
  ASSERT_TRUE(gate_.TryReserve(10));  // 10 keys, of which 1 will turn out missing
  EXPECT_FALSE(gate_.TryReserve(1));
  gate_.EnterExact(Note("in"));
  gate_.ReserveExact(9, gate_.generation(), NoteDecision("nine"));
  EXPECT_THAT(events_, ElementsAre("in"));
  gate_.Settle(10, 9);
  EXPECT_THAT(events_, ElementsAre("in", "nine+"));
  EXPECT_EQ(budget_.used(), 10u);
}

TEST_F(RowGateTest, RefusesWhenTheRowsThatExistLeaveNoRoom) {
  ASSERT_TRUE(gate_.TryReserve(9));
  gate_.Settle(9, 0);  // 9 rows exist
  gate_.ReserveExact(2, gate_.generation(), NoteDecision("two"));
  gate_.ReserveExact(1, gate_.generation(), NoteDecision("one"));
  EXPECT_THAT(events_, ElementsAre("two-", "one+"));
  EXPECT_EQ(budget_.used(), 10u) << "the refused one holds nothing";
}

TEST_F(RowGateTest, TheQuickWayIsClosedWhileAnExactOneWaits) {
  ASSERT_TRUE(gate_.TryReserve(6));
  gate_.ReserveExact(5, gate_.generation(), NoteDecision("five"));
  EXPECT_FALSE(gate_.TryReserve(1));
  gate_.Settle(6, 6);
  EXPECT_THAT(events_, ElementsAre("five+"));
  EXPECT_TRUE(gate_.TryReserve(5));
}

TEST_F(RowGateTest, WaitingOnesAreDecidedInOrder) {
  ASSERT_TRUE(gate_.TryReserve(1));
  gate_.Settle(1, 0);
  ASSERT_TRUE(gate_.TryReserve(8));
  gate_.ReserveExact(10, gate_.generation(), NoteDecision("ten"));
  gate_.ReserveExact(1, gate_.generation(), NoteDecision("one"));
  EXPECT_THAT(events_, IsEmpty());
  gate_.Settle(8, 8);
  EXPECT_THAT(events_, ElementsAre("ten-", "one+"));
}

TEST_F(RowGateTest, WhoCountedBeforeOthersMadeRowsCountsAgain) {
  ASSERT_TRUE(gate_.TryReserve(10));
  gate_.ReserveExact(10, gate_.generation(), NoteDecision("the same ten"));
  gate_.Settle(10, 0);
  EXPECT_THAT(events_, ElementsAre("the same ten again"));
  gate_.ReserveExact(1, gate_.generation(), NoteDecision("another"));
  EXPECT_THAT(events_, ElementsAre("the same ten again", "another-"));
}

TEST_F(RowGateTest, NoPruneStepBetweenCountAndRun) {
  gate_.EnterExact(Note("a"));
  gate_.EnterPrune(Note("prune"));
  gate_.EnterExact(Note("b"));
  EXPECT_THAT(events_, ElementsAre("a"));
  gate_.LeaveExact();
  EXPECT_THAT(events_, ElementsAre("a", "prune"));
  gate_.EnterPrune(Note("prune 2"));
  gate_.EnterExact(Note("c"));
  EXPECT_THAT(events_, ElementsAre("a", "prune"));
  gate_.LeavePrune();
  EXPECT_THAT(events_, ElementsAre("a", "prune", "b", "c")) << "step by step, in turn";
  gate_.LeaveExact();
  EXPECT_THAT(events_, ElementsAre("a", "prune", "b", "c"));
  gate_.LeaveExact();
  EXPECT_THAT(events_, ElementsAre("a", "prune", "b", "c", "prune 2"));
}

}  // namespace
}  // namespace ps::server
