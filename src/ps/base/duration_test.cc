#include "ps/base/duration.h"

#include <gtest/gtest.h>

#include <limits>

namespace ps {
namespace {

TEST(Duration, SecondsAreExactWhereItMatters) {
  EXPECT_EQ(Seconds(1.5), std::chrono::milliseconds(1500));
  EXPECT_EQ(Seconds(-0.25), std::chrono::milliseconds(-250));
  EXPECT_EQ(Seconds(0), Duration::zero());
}

TEST(Duration, HugeSecondsStayFarAwayInsteadOfOverflowing) {
  SteadyTime now = Clock::System().Now();
  for (double seconds : {1e9, 1e10, 1e300, std::numeric_limits<double>::infinity()}) {
    EXPECT_EQ(Seconds(seconds), std::chrono::seconds(1'000'000'000)) << seconds;
    EXPECT_EQ(Seconds(-seconds), std::chrono::seconds(-1'000'000'000)) << seconds;
    EXPECT_GT(now + Seconds(seconds), now) << seconds;
  }
  EXPECT_EQ(Seconds(std::numeric_limits<double>::quiet_NaN()), Duration::zero());
}

}  // namespace
}  // namespace ps
