#include "ps/store/key_index.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <unordered_map>
#include <vector>

namespace ps::store {
namespace {

// An index with the hashes of its rows, as the table and its chains are to a real one.
class Fixture {
 public:
  ~Fixture() { index.Release(&pool); }

  void Insert(std::uint64_t hash, RowNumber row) {
    if (index.full()) {
      index.Grow(&pool);
      for (const auto& [r, h] : hash_of) index.Insert(h, r);
    }
    index.Insert(hash, row);
    hash_of[row] = hash;
  }
  void Remove(RowNumber row) {
    index.Remove(hash_of.at(row), row);
    hash_of.erase(row);
  }
  RowNumber Find(std::uint64_t hash, RowNumber row) const {
    return index.Find(hash, [row](RowNumber candidate) { return candidate == row; });
  }
  void ExpectSame() const {
    ASSERT_EQ(index.rows(), hash_of.size());
    for (const auto& [row, hash] : hash_of) ASSERT_EQ(Find(hash, row), row);
  }
  std::uint64_t OverflowSum() const {
    std::uint64_t sum = 0;
    for (std::uint32_t b = 0; b < index.bucket_count(); ++b) sum += index.Bucket(b)->overflow;
    return sum;
  }

  PagePool pool;
  KeyIndex index;
  std::unordered_map<RowNumber, std::uint64_t> hash_of;
};

TEST(KeyIndexTest, PortableMatchFindsExactlyTheEqualBytes) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20'000; ++i) {
    std::uint64_t bytes = random();
    if (i % 2 == 0) bytes &= 0x0101018001010180ull;  // many equal and nearly equal bytes
    const auto byte = static_cast<std::uint8_t>(i % 4 == 0 ? i % 3 : random());
    std::uint32_t expected = 0;
    for (int b = 0; b < 8; ++b) {
      if (static_cast<std::uint8_t>(bytes >> (8 * b)) == byte) expected |= 1u << b;
    }
    ASSERT_EQ(MatchEightBytes(bytes, byte), expected);
  }
}

TEST(KeyIndexTest, AnEmptyIndexFindsNothingAndHoldsNoMemory) {
  Fixture f;
  EXPECT_EQ(f.index.memory_bytes(), 0u);
  EXPECT_EQ(f.Find(123, 0), kNoRow);
}

TEST(KeyIndexTest, InsertThenFindSurvivesGrowth) {
  Fixture f;
  std::mt19937_64 random(1);
  std::uint32_t growths = 0;
  std::uint32_t buckets = 0;
  for (RowNumber row = 0; row < 20'000; ++row) {
    f.Insert(random(), row);
    if (f.index.bucket_count() != buckets) {
      buckets = f.index.bucket_count();
      ++growths;
      f.ExpectSame();
    }
  }
  f.ExpectSame();
  EXPECT_GT(growths, 20u);
  EXPECT_EQ(f.Find(random(), 20'000), kNoRow);
}

TEST(KeyIndexTest, RoomForManyIsMadeInOneStepAndNotMuchMore) {
  for (const std::uint32_t rows : {1u, 9u, 10u, 143u, 144u, 145u, 5'000u}) {
    Fixture f;
    for (RowNumber row = 0; row < 3; ++row) f.Insert(row * 0x9E3779B97F4A7C15ull, row);
    f.index.Grow(&f.pool, rows);
    EXPECT_TRUE(f.index.has_room(3 + rows));
    EXPECT_LE(f.index.memory_bytes(), (3 + rows) * 64 / 9 + PagePool::kGrainBytes);
    for (const auto& [row, hash] : f.hash_of) f.index.Insert(hash, row);
    const std::uint32_t buckets = f.index.bucket_count();
    for (RowNumber row = 3; row < 3 + rows; ++row) f.Insert(row * 0x9E3779B97F4A7C15ull, row);
    EXPECT_EQ(f.index.bucket_count(), buckets);
    f.ExpectSame();
  }
}

TEST(KeyIndexTest, CostsAtMostNineBytesARowOnceItHasGrains) {
  Fixture f;
  std::mt19937_64 random(2);
  for (RowNumber row = 0; row < 12'000; ++row) {
    f.Insert(random(), row);
    if (row > 1'000) {
      ASSERT_LE(f.index.memory_bytes(), 9.0 * f.index.rows());
    }
  }
}

TEST(KeyIndexTest, RandomOperationsAgreeWithAMapAndRemovalsLeaveNoTrace) {
  Fixture f;
  std::mt19937_64 random(3);
  std::vector<RowNumber> rows;
  RowNumber next = 0;
  for (int step = 0; step < 60'000; ++step) {
    const bool grow = step / 10'000 % 2 == 0;
    if (rows.empty() || random() % 10 < (grow ? 7u : 3u)) {
      // Few distinct hashes: tags, buckets and whole hashes are shared.
      f.Insert((random() % 97) * 0x01000193u, next);
      rows.push_back(next++);
    } else {
      std::swap(rows[random() % rows.size()], rows.back());
      f.Remove(rows.back());
      rows.pop_back();
    }
    if (step % 5'000 == 0) f.ExpectSame();
  }
  for (const RowNumber row : rows) f.Remove(row);
  EXPECT_EQ(f.index.rows(), 0u);
  EXPECT_EQ(f.OverflowSum(), 0u);
}

TEST(KeyIndexTest, ChurnAtConstantSizeNeverGrowsTheIndex) {
  Fixture f;
  std::mt19937_64 random(4);
  for (RowNumber row = 0; row < 3'000; ++row) f.Insert(random(), row);
  const std::uint32_t buckets = f.index.bucket_count();
  for (RowNumber row = 3'000; row < 60'000; ++row) {
    f.Remove(row - 3'000);
    f.Insert(random(), row);
  }
  f.ExpectSame();
  EXPECT_EQ(f.index.bucket_count(), buckets);
}

TEST(KeyIndexTest, OneHashForEveryRowStillFindsEachRow) {
  Fixture f;
  for (RowNumber row = 0; row < 1'500; ++row) f.Insert(0xffffffffffffff00ull, row);
  f.ExpectSame();
  for (RowNumber row = 0; row < 1'500; row += 2) f.Remove(row);
  f.ExpectSame();
  EXPECT_EQ(f.Find(0xffffffffffffff00ull, 2), kNoRow);
}

TEST(KeyIndexTest, ReleaseGivesAllMemoryBack) {
  Fixture f;
  std::mt19937_64 random(5);
  for (RowNumber row = 0; row < 5'000; ++row) f.Insert(random(), row);
  EXPECT_GT(f.pool.used_bytes(), 0u);
  f.index.Release(&f.pool);
  EXPECT_EQ(f.pool.used_bytes(), 0u);
  EXPECT_EQ(f.index.memory_bytes(), 0u);
}

}  // namespace
}  // namespace ps::store
