#include "ps/net/descriptors.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

namespace ps::net {
namespace {

rlimit Limit() {
  rlimit limit{};
  EXPECT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  return limit;
}

class Descriptors : public testing::Test {
 protected:
  ~Descriptors() override { setrlimit(RLIMIT_NOFILE, &old_); }
  const rlimit old_ = Limit();
};

TEST_F(Descriptors, LimitIsRaisedAsFarAsTheSystemAllowsAndNeverLowered) {
  rlimit low = old_;
  low.rlim_cur = 200;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &low), 0);
  EXPECT_EQ(RaiseDescriptorLimit(100), 200u);
  EXPECT_EQ(RaiseDescriptorLimit(300), 300u);
  EXPECT_EQ(Limit().rlim_cur, 300u);
  EXPECT_EQ(RaiseDescriptorLimit(old_.rlim_max), old_.rlim_max);
}

}  // namespace
}  // namespace ps::net
