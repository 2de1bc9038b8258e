#include "ps/base/hash.h"

#include <bit>
#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace ps {
namespace {

// Checkpoints and placement depend on these numbers: a change that breaks them loses users' data.
TEST(Hash, BytesAreGolden) {
  EXPECT_EQ(HashBytes(""), 0x2d06800538d394c2ull);
  EXPECT_EQ(HashBytes("a"), 0xe6c632b61e964e1full);
  EXPECT_EQ(HashBytes("default"), 0x6c5b964d9473ac1aull);
  EXPECT_EQ(HashBytes("tail_number:N14228"), 0xffcbd274613abe58ull);
  EXPECT_EQ(HashBytes(std::string(1000, 'x')), 0xc0a4877b962cba82ull);
}

TEST(Hash, MixIsGolden) {
  EXPECT_EQ(Mix64(0), 0xe220a8397b1dcdafull);  // first output of SplitMix64 seeded with 0
  EXPECT_EQ(Mix64(1), 0x910a2dec89025cc1ull);
  EXPECT_EQ(Mix64(0xffffffffffffffffull), 0xe4d971771b652c20ull);
}

TEST(Hash, KeyIsGolden) {
  EXPECT_EQ(HashKey(HashBytes("default"), 0), 0xe9541c82e4c6f84eull);
  EXPECT_EQ(HashKey(HashBytes("default"), 12345), 0x85ea8f9787237060ull);
  EXPECT_EQ(HashKey(HashBytes("default"), kNullKey), 0x95db7e9ef21f33baull);
}

TEST(Hash, TheSameKeyLiesElsewhereInAnotherTable) {
  EXPECT_NE(HashKey(HashBytes("a"), 1), HashKey(HashBytes("b"), 1));
}

TEST(Hash, OneFlippedInputBitFlipsHalfTheOutput) {
  double flipped = 0;
  for (int bit = 0; bit < 64; ++bit) {
    for (std::uint64_t x = 0; x < 64; ++x) {
      flipped += std::popcount(Mix64(x) ^ Mix64(x ^ (1ull << bit)));
    }
  }
  EXPECT_NEAR(flipped / (64 * 64), 32, 0.5);
}

TEST(Hash, PartitionIsTheTopBits) {
  EXPECT_EQ(PartitionOf(0xffffffffffffffffull, 0), 0u);
  EXPECT_EQ(PartitionOf(0x8000000000000000ull, 1), 1u);
  EXPECT_EQ(PartitionOf(0x123456789abcdef0ull, 12), 0x123u);
  EXPECT_EQ(PartitionOf(0x123456789abcdef0ull, 16), 0x1234u);
}

// DESIGN.md: an old checkpoint of P partitions loads into 2P, because each of the P holds two
// whole.
TEST(Hash, PartitionsNest) {
  for (std::uint64_t key = 0; key < 1000; ++key) {
    std::uint64_t hash = HashKey(7, key);
    EXPECT_EQ(PartitionOf(hash, 12), PartitionOf(hash, 13) / 2);
  }
}

TEST(Hash, SequentialKeysFillPartitionsEvenly) {
  constexpr int kBits = 8;
  std::vector<int> rows(1 << kBits);
  for (std::uint64_t key = 0; key < 256'000; ++key) ++rows[PartitionOf(HashKey(42, key), kBits)];
  for (int count : rows) EXPECT_NEAR(count, 1000, 200);  // 6 standard deviations
}

}  // namespace
}  // namespace ps
