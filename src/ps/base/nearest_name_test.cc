#include "ps/base/nearest_name.h"

#include <array>

#include <gtest/gtest.h>

namespace ps {
namespace {

constexpr std::array<std::string_view, 3> kNames = {"learning_rate", "epsilon", "weight_decay"};

TEST(NearestName, FindsWhatWasMeant) {
  EXPECT_EQ(NearestName("learnig_rate", kNames), "learning_rate");
  EXPECT_EQ(NearestName("Epsilon", kNames), "epsilon");
  EXPECT_EQ(NearestName("weightdecay", kNames), "weight_decay");
}

TEST(NearestName, SaysNothingWhenNothingIsNear) {
  EXPECT_EQ(NearestName("color", kNames), "");
  EXPECT_EQ(NearestName("", kNames), "");
  EXPECT_EQ(NearestName("epsilon", {}), "");
  EXPECT_EQ(NearestName(std::string(100'000, 'e'), kNames), "");
}

}  // namespace
}  // namespace ps
