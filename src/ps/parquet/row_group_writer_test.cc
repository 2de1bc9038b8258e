#include "ps/parquet/row_group_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <lz4.h>
#include <zstd.h>

#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace ps::parquet {
namespace {

constexpr std::size_t kGroupRows = 1'000;
constexpr std::size_t kListItems = 3;

std::vector<Column> OneList() { return {{{"vector", "list", "element"}, 4, 4, kListItems, false}}; }

std::vector<float> SomeFloats() {
  std::vector<float> floats(kGroupRows * kListItems);
  for (std::size_t i = 0; i < floats.size(); ++i) floats[i] = static_cast<float>(i % 97) / 7;
  return floats;
}

std::string Packed(Codec codec, const std::vector<float>& floats) {
  RowGroupWriter writer(OneList(), codec);
  const std::vector<const char*> values = {reinterpret_cast<const char*>(floats.data())};
  auto group = writer.Write(values, floats.size() / kListItems, 4, 0);
  EXPECT_TRUE(group.ok()) << group.status().ToString();
  return {group->bytes.get(), group->size};
}

// The page of `floats` as it was before packing, from its levels on; checks that its header ends
// where they begin. That the whole is Parquet, pyarrow proves in test_storage_pages.py.
std::string Values(Codec codec, const std::vector<float>& floats, std::size_t header_bytes) {
  const std::size_t bits = (floats.size() + 7) / 8;
  const std::string page = Packed(codec, floats);
  std::string values(floats.size() * sizeof(float), '\0');
  const std::size_t levels = 2 + bits + 3;  // varints of two bytes
  const std::string rest = page.substr(header_bytes + levels);
  if (codec == Codec::kZstd) {
    EXPECT_EQ(ZSTD_decompress(values.data(), values.size(), rest.data(), rest.size()),
              values.size());
  } else if (codec == Codec::kLz4Raw) {
    EXPECT_EQ(LZ4_decompress_safe(rest.data(), values.data(), static_cast<int>(rest.size()),
                                  static_cast<int>(values.size())),
              static_cast<int>(values.size()));
  } else {
    values = rest;
  }
  for (std::size_t i = 0; i < floats.size(); ++i) {
    const bool repeats = (page[header_bytes + 2 + i / 8] >> i % 8 & 1) != 0;
    EXPECT_EQ(repeats, i % kListItems != 0) << i;
  }
  return values;
}

TEST(RowGroupWriterTest, ValuesAreUnpackedAsTheyLay) {
  const std::vector<float> floats = SomeFloats();
  const std::string bytes(reinterpret_cast<const char*>(floats.data()), floats.size() * 4);
  EXPECT_EQ(Values(Codec::kNone, floats, 29), bytes);
  EXPECT_EQ(Values(Codec::kLz4Raw, floats, 28), bytes);
  EXPECT_EQ(Values(Codec::kZstd, floats, 28), bytes);
}

TEST(RowGroupWriterTest, MemoryThatSomebodyHoldsIsNotWrittenTo) {
  RowGroupWriter writer({{{"key"}, 2, 8, 1, false}}, Codec::kNone);
  const std::vector<std::uint64_t> first(kGroupRows, 1);
  const std::vector<std::uint64_t> second(kGroupRows, 2);
  const std::vector<const char*> ones = {reinterpret_cast<const char*>(first.data())};
  const std::vector<const char*> twos = {reinterpret_cast<const char*>(second.data())};
  auto held = writer.Write(ones, kGroupRows, 4, 0);
  const std::string before(held->bytes.get(), held->size);
  auto next = writer.Write(twos, kGroupRows, 4, 1);
  EXPECT_EQ(std::string(held->bytes.get(), held->size), before);
  const char* const memory = next->bytes.get();
  next->bytes.reset();
  EXPECT_EQ(writer.Write(twos, kGroupRows, 4, 2)->bytes.get(), memory);
}

TEST(RowGroupWriterTest, AColumnTooLargeForAPageIsRefused) {
  RowGroupWriter writer(OneList(), Codec::kZstd);
  const std::vector<const char*> values = {nullptr};
  auto group = writer.Write(values, std::size_t{1} << 30, 4, 0);
  ASSERT_FALSE(group.ok());
  EXPECT_EQ(group.status().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(group.status().message(), testing::HasSubstr("'vector'"));
}

}  // namespace
}  // namespace ps::parquet
