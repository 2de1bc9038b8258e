#include "ps/base/spin_wait.h"

#include <gtest/gtest.h>

namespace ps {
namespace {

using std::chrono::microseconds;

constexpr microseconds kStep{5};

class SpinWaitTest : public testing::Test {
 protected:
  // A wait for what comes at question `number`; each question takes `step`.
  bool WaitFor(int number, Duration step = kStep) {
    asked_ = 0;
    return spin_.Until([&] {
      clock_.Advance(step);
      return ++asked_ == number;
    });
  }
  bool IsLeftOut() {
    (void)WaitFor(1);
    return asked_ == 0;
  }

  static constexpr int kNever = 1'000'000;
  ManualClock clock_;
  SpinWait spin_{clock_};
  int asked_ = 0;
};

TEST_F(SpinWaitTest, EndsWithWhatItWaitsFor) {
  EXPECT_TRUE(WaitFor(1));
  EXPECT_TRUE(WaitFor(7));
  EXPECT_EQ(asked_, 7);
}

TEST_F(SpinWaitTest, InVainItEndsAndIsLeftOutForAWhile) {
  EXPECT_FALSE(WaitFor(kNever));
  EXPECT_LE(asked_, SpinWait::kWaitMax / kStep + 1);
  EXPECT_TRUE(IsLeftOut());
  clock_.Advance(SpinWait::kPauseMin);
  EXPECT_FALSE(IsLeftOut());
}

TEST_F(SpinWaitTest, EachTimeInVainItIsLeftOutForLonger) {
  for (Duration pause = SpinWait::kPauseMin; pause < SpinWait::kPauseMax; pause *= 2) {
    EXPECT_FALSE(WaitFor(kNever));
    clock_.Advance(pause - kStep);
    EXPECT_TRUE(IsLeftOut());
    clock_.Advance(kStep);
  }
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(WaitFor(kNever));
    clock_.Advance(SpinWait::kPauseMax);
    EXPECT_FALSE(IsLeftOut());
  }
}

TEST_F(SpinWaitTest, SuccessForgetsFormerFailures) {
  for (int i = 0; i < 5; ++i) {
    EXPECT_FALSE(WaitFor(kNever));
    clock_.Advance(SpinWait::kPauseMax);
  }
  EXPECT_TRUE(WaitFor(3));
  EXPECT_FALSE(WaitFor(kNever));
  clock_.Advance(SpinWait::kPauseMin);
  EXPECT_FALSE(IsLeftOut());
}

TEST_F(SpinWaitTest, WhatIsThereAlreadyProvesNothing) {
  EXPECT_FALSE(WaitFor(kNever));
  clock_.Advance(SpinWait::kPauseMin);
  EXPECT_TRUE(WaitFor(1));
  EXPECT_FALSE(WaitFor(kNever));
  clock_.Advance(SpinWait::kPauseMin);
  EXPECT_TRUE(IsLeftOut());
}

TEST_F(SpinWaitTest, GivesTheCoreUpToAnotherThreadThatHasUseForIt) {
  EXPECT_FALSE(WaitFor(kNever, SpinWait::kTurnMax + kStep));
  EXPECT_EQ(asked_, 1);
  clock_.Advance(SpinWait::kBusyPauseMin - kStep);
  EXPECT_TRUE(IsLeftOut());
  clock_.Advance(kStep);
  EXPECT_FALSE(IsLeftOut());
}

}  // namespace
}  // namespace ps
