#include "ps/base/random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "ps/base/hash.h"

namespace ps {
namespace {

constexpr std::uint64_t kSeed = 7, kStream = 11;

std::vector<float> Draw(InitKind kind, float scale, std::uint64_t counter, std::size_t n,
                        std::uint64_t first = 0) {
  std::vector<float> out(n);
  FillInitial({kind, scale}, kSeed, kStream, counter, first, out);
  return out;
}

// `rows` rows of `dim` values one after the other, as a table is filled.
std::vector<float> DrawRows(InitKind kind, std::size_t rows, std::size_t dim) {
  std::vector<float> all;
  for (std::size_t key = 0; key < rows; ++key) {
    std::vector<float> row = Draw(kind, 1.0f, key, dim);
    all.insert(all.end(), row.begin(), row.end());
  }
  return all;
}

double NormalCdf(double z) { return 0.5 * std::erfc(-z / std::sqrt(2.0)); }

// Largest distance between the empirical distribution and `cdf`.
template <typename Cdf>
double KolmogorovSmirnov(std::vector<float> values, Cdf cdf) {
  std::sort(values.begin(), values.end());
  double n = static_cast<double>(values.size()), distance = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    double expected = cdf(values[i]);
    double rank = static_cast<double>(i);
    distance = std::max({distance, expected - rank / n, (rank + 1) / n - expected});
  }
  return distance;
}

double Moment(const std::vector<float>& values, int power) {
  double sum = 0;
  for (float value : values) sum += std::pow(static_cast<double>(value), power);
  return sum / static_cast<double>(values.size());
}

// The bits of initial rows are part of the contract: servers of any machine must agree on them.
TEST(FillInitial, UniformIsGolden) {
  std::vector<float> row = Draw(InitKind::kUniform, 0.05f, 12345, 4);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(row[0]), 0xb94edc00u);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(row[1]), 0xbbabb907u);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(row[2]), 0xbcd348dfu);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(row[3]), 0xbcd74ef5u);
}

TEST(FillInitial, NormalIsGolden) {
  std::vector<float> row = Draw(InitKind::kNormal, 0.01f, 12345, 4);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(row[0]), 0xb84f67d7u);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(row[1]), 0xbaacac8bu);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(row[2]), 0xbbe540bcu);
  EXPECT_EQ(std::bit_cast<std::uint32_t>(row[3]), 0xbbea6f53u);
}

// One number over many values: any changed bit of any of them changes it.
TEST(FillInitial, LongSequencesAreGolden) {
  auto hash = [](const std::vector<float>& values) {
    return HashBytes({reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)});
  };
  EXPECT_EQ(hash(Draw(InitKind::kUniform, 0.05f, 1, 1'000'000)), 0x6aca52212370d9d6ull);
  EXPECT_EQ(hash(Draw(InitKind::kNormal, 0.01f, 1, 1'000'000)), 0xdf796012613c4fa3ull);
}

TEST(FillInitial, ZerosAndOnesIgnoreTheScale) {
  EXPECT_EQ(Draw(InitKind::kZeros, 5, 1, 3), (std::vector<float>{0, 0, 0}));
  EXPECT_EQ(Draw(InitKind::kOnes, 5, 1, 3), (std::vector<float>{1, 1, 1}));
}

TEST(FillInitial, APartEqualsTheSamePlaceOfTheWhole) {
  for (InitKind kind : {InitKind::kUniform, InitKind::kNormal}) {
    std::vector<float> whole = Draw(kind, 1, 3, 1000);
    for (std::size_t first : {0, 1, 2, 63, 64, 65, 129, 500}) {
      for (std::size_t n : {0, 1, 2, 3, 17, 63, 64, 65, 200}) {
        std::vector<float> part = Draw(kind, 1, 3, n, first);
        EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first))
            << "first " << first << ", " << n << " values";
      }
    }
  }
}

TEST(FillInitial, PlacesBeyondFourGigafloatsDiffer) {
  EXPECT_NE(Draw(InitKind::kNormal, 1, 3, 8), Draw(InitKind::kNormal, 1, 3, 8, 1ull << 32));
  EXPECT_NE(Draw(InitKind::kNormal, 1, 3, 8), Draw(InitKind::kNormal, 1, 3, 8, 1ull << 33));
}

TEST(FillInitial, SeedStreamAndCounterEachChangeEverything) {
  std::vector<float> a(16), b(16), c(16), d(16);
  Initializer normal{InitKind::kNormal, 1};
  FillInitial(normal, 1, 2, 3, 0, a);
  FillInitial(normal, 9, 2, 3, 0, b);
  FillInitial(normal, 1, 9, 3, 0, c);
  FillInitial(normal, 1, 2, 9, 0, d);
  std::set<float> all;
  for (const auto& row : {a, b, c, d}) all.insert(row.begin(), row.end());
  EXPECT_EQ(all.size(), 64u);
}

TEST(FillInitial, UniformIsUniform) {
  std::vector<float> values = DrawRows(InitKind::kUniform, 25'000, 16);
  EXPECT_NEAR(Moment(values, 1), 0, 0.004);  // 4 standard errors
  EXPECT_NEAR(Moment(values, 2), 1.0 / 3, 0.002);
  EXPECT_LT(KolmogorovSmirnov(values, [](double x) { return (x + 1) / 2; }),
            1.95 / std::sqrt(400'000.0));  // significance 0.001
  EXPECT_LT(*std::max_element(values.begin(), values.end()), 1.0f);
  EXPECT_GT(*std::min_element(values.begin(), values.end()), -1.0f);
}

TEST(FillInitial, NormalIsNormal) {
  std::vector<float> values = DrawRows(InitKind::kNormal, 25'000, 16);
  EXPECT_NEAR(Moment(values, 1), 0, 0.006);  // 4 standard errors each
  EXPECT_NEAR(Moment(values, 2), 1, 0.009);
  EXPECT_NEAR(Moment(values, 3), 0, 0.025);
  EXPECT_NEAR(Moment(values, 4), 3, 0.062);
  EXPECT_LT(KolmogorovSmirnov(values, NormalCdf), 1.95 / std::sqrt(400'000.0));
  std::vector<float> one_sequence = Draw(InitKind::kNormal, 1, 5, 100'000);
  EXPECT_LT(KolmogorovSmirnov(one_sequence, NormalCdf), 1.95 / std::sqrt(100'000.0));
}

TEST(FillInitial, NormalHasTheRightTails) {
  std::vector<float> values = Draw(InitKind::kNormal, 1, 1, 4'000'000);
  for (double z : {2.0, 3.0, 4.0, 4.5}) {
    double expected = 2 * NormalCdf(-z) * 4e6;
    double beyond = static_cast<double>(
        std::count_if(values.begin(), values.end(), [z](float x) { return std::fabs(x) > z; }));
    EXPECT_NEAR(beyond, expected, 4.5 * std::sqrt(expected)) << "beyond " << z;
  }
  auto [low, high] = std::minmax_element(values.begin(), values.end());
  EXPECT_GT(*low, -6.5f);
  EXPECT_LT(*high, 6.5f);
}

TEST(FillInitial, NeighbouringKeysAndPlacesAreUncorrelated) {
  constexpr std::size_t kRows = 20'000, kDim = 16;
  std::vector<float> values = DrawRows(InitKind::kNormal, kRows, kDim);
  for (std::size_t lag : {1ul, 2ul, kDim, 2 * kDim, 256 * kDim}) {
    double sum = 0;
    for (std::size_t i = 0; i + lag < values.size(); ++i) sum += values[i] * values[i + lag];
    double n = static_cast<double>(values.size() - lag);
    EXPECT_NEAR(sum / n, 0, 4.5 / std::sqrt(n)) << "lag " << lag;
  }
}

TEST(FillInitial, ScaleScales) {
  std::vector<float> one = Draw(InitKind::kNormal, 1, 1, 100);
  std::vector<float> half = Draw(InitKind::kNormal, 0.5f, 1, 100);
  for (std::size_t i = 0; i < one.size(); ++i) EXPECT_EQ(half[i], one[i] * 0.5f);
  EXPECT_EQ(Draw(InitKind::kUniform, 0, 1, 1)[0], 0.0f);
}

TEST(ParseInitKind, KnowsTheContractsNamesAndNoOthers) {
  EXPECT_EQ(ParseInitKind("zeros").value(), InitKind::kZeros);
  EXPECT_EQ(ParseInitKind("ones").value(), InitKind::kOnes);
  EXPECT_EQ(ParseInitKind("random").value(), InitKind::kUniform);
  EXPECT_EQ(ParseInitKind("uniform").value(), InitKind::kUniform);
  EXPECT_EQ(ParseInitKind("normal").value(), InitKind::kNormal);
  Result<InitKind> wrong = ParseInitKind("gaussian");
  EXPECT_EQ(wrong.status().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(wrong.status().message().find("gaussian"), std::string::npos);
  EXPECT_NE(wrong.status().message().find("normal"), std::string::npos);
}

}  // namespace
}  // namespace ps
