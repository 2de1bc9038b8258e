#include "ps/client/finite.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <iterator>
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

TEST(CopyFiniteTest, CopiesAllAndTellsOfEachPlace) {
  alignas(64) float to[304];
  for (std::size_t size : {0u, 3u, 16u, 128u, 272u, 301u}) {
    for (std::size_t bad = 0; bad <= size; ++bad) {
      std::vector<float> from(size);
      for (std::size_t i = 0; i < size; ++i) from[i] = static_cast<float>(i) - 7.0f;
      if (bad < size) from[bad] = INFINITY;
      for (const bool for_others : {false, true}) {
        std::fill(std::begin(to), std::end(to), -1.0f);
        EXPECT_EQ(CopyFinite(to, from.data(), size, for_others), bad == size);
        EXPECT_TRUE(std::equal(from.begin(), from.end(), to));
        EXPECT_EQ(to[size], -1.0f);
      }
    }
  }
}

}  // namespace
}  // namespace ps::client
