#include "ps/parquet/row_group_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <vector>

#include "ps/parquet/row_group_writer.h"

namespace ps::parquet {
namespace {

constexpr std::size_t kRows = 1'234;
constexpr std::size_t kDim = 3;

std::vector<Column> Columns() {
  return {{{"partition"}, 1, 4, 1, true}, {{"vector", "list", "element"}, 4, 4, kDim, false}};
}

class RowGroupReaderTest : public testing::TestWithParam<Codec> {
 protected:
  RowGroupReaderTest() : partitions_(kRows), floats_(kRows * kDim) {
    for (std::size_t i = 0; i < kRows; ++i) partitions_[i] = static_cast<std::int32_t>(i / 9);
    for (std::size_t i = 0; i < floats_.size(); ++i) floats_[i] = static_cast<float>(i % 97) / 7;
    // One column for each row group, so that the ends of their pages are known.
    for (std::size_t i = 0; i < columns_.size(); ++i) {
      RowGroupWriter writer({columns_[i]}, GetParam());
      const std::vector<const char*> values = {i == 0 ? Bytes(partitions_) : Bytes(floats_)};
      auto group = writer.Write(values, kRows, 4, 0);
      EXPECT_TRUE(group.ok());
      pages_.emplace_back(group->bytes.get(), group->size);
    }
  }
  template <typename T>
  static char* Bytes(std::vector<T>& values) {
    return reinterpret_cast<char*>(values.data());
  }
  Result<bool> Read(char* partitions, char* floats, std::size_t rows = kRows) {
    const std::vector<RowGroupReader::Chunk> chunks = {{pages_[0], partitions},
                                                       {pages_[1], floats}};
    return RowGroupReader(columns_).Read(chunks, GetParam(), rows);
  }

  const std::vector<Column> columns_ = Columns();
  std::vector<std::int32_t> partitions_;
  std::vector<float> floats_;
  std::vector<std::string> pages_;
};

TEST_P(RowGroupReaderTest, WhatWasWrittenComesBackWholeOrByColumns) {
  std::vector<std::int32_t> partitions(kRows);
  std::vector<float> floats(kRows * kDim);
  ASSERT_TRUE(Read(nullptr, Bytes(floats)).value());
  EXPECT_EQ(floats, floats_);
  ASSERT_TRUE(Read(Bytes(partitions), Bytes(floats)).value());
  EXPECT_EQ(partitions, partitions_);
}

TEST_P(RowGroupReaderTest, OtherPagesAreLeftToOthers) {
  std::vector<float> floats(2 * kRows * kDim);
  EXPECT_FALSE(Read(nullptr, Bytes(floats), kRows - 1).value());
  EXPECT_FALSE(Read(nullptr, Bytes(floats), std::size_t{1} << 60).value());
  pages_[1][20] ^= 1;
  EXPECT_FALSE(Read(nullptr, Bytes(floats)).value());
  pages_[1].clear();
  EXPECT_FALSE(Read(nullptr, Bytes(floats)).value());
}

TEST_P(RowGroupReaderTest, APageThatCannotBeUnpackedIsDamaged) {
  if (GetParam() == Codec::kNone) return;  // any bytes are values
  std::vector<float> floats(kRows * kDim);
  for (std::size_t i = pages_[1].size() - 200; i < pages_[1].size(); ++i) pages_[1][i] = '\xFF';
  const Result<bool> read = Read(nullptr, Bytes(floats));
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.status().code(), StatusCode::kDataCorruption);
  EXPECT_THAT(read.status().message(), testing::HasSubstr("'vector'"));
}

INSTANTIATE_TEST_SUITE_P(EveryCodec, RowGroupReaderTest,
                         testing::Values(Codec::kNone, Codec::kZstd, Codec::kLz4Raw));

}  // namespace
}  // namespace ps::parquet
