#include "ps/base/clock.h"

#include <gtest/gtest.h>

namespace ps {
namespace {

TEST(Clock, SystemTimeMovesOn) {
  SteadyTime before = Clock::System().Now();
  EXPECT_LE(before, Clock::System().Now());
  EXPECT_GE(Clock::System().Today(), 20'000u);  // 2024-10-04
  EXPECT_LE(Clock::System().Today(), 60'000u);  // 2134
}

TEST(Clock, ManualStandsStillUntilMoved) {
  ManualClock clock;
  SteadyTime start = clock.Now();
  EXPECT_EQ(clock.Now(), start);
  clock.Advance(std::chrono::milliseconds(1500));
  EXPECT_EQ(clock.Now() - start, std::chrono::milliseconds(1500));
  clock.SetToday(16'000);
  EXPECT_EQ(clock.Today(), 16'000u);
}

}  // namespace
}  // namespace ps
