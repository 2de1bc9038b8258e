#include "ps/client/finite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace ps::client {
namespace {

TEST(FindNonFiniteTest, FindsTheFirstWhereverItLies) {
  for (std::size_t size : {1u, 7u, 1'024u, 1'025u, 5'000u}) {
    for (std::size_t at : {std::size_t{0}, size / 2, size - 1}) {
      for (float bad : {std::nanf(""), INFINITY, -INFINITY}) {
        std::vector<float> values(size, 1.0f);
        values[at] = bad;
        values[size - 1] = bad;
        EXPECT_EQ(FindNonFinite(values), at) << size;
      }
    }
  }
}

TEST(FindNonFiniteTest, ExtremeFiniteValuesPass) {
  using Limits = std::numeric_limits<float>;
  std::vector<float> values = {0.0f, -0.0f, Limits::max(), Limits::lowest(), Limits::denorm_min()};
  EXPECT_EQ(FindNonFinite(values), std::nullopt);
  EXPECT_EQ(FindNonFinite({}), std::nullopt);
}

}  // namespace
}  // namespace ps::client
