#include "ps/parquet/compact.h"

#include <gtest/gtest.h>

#include <string>

namespace ps::parquet {
namespace {

using namespace std::string_literals;

TEST(CompactWriterTest, FieldsTellTheirDistanceAndType) {
  std::string bytes;
  CompactWriter writer(&bytes);
  writer.I32(1, 3);      // zigzag: 6
  writer.I64(4, -1);     // three on; zigzag: 1
  writer.Bool(5, true);  // the type is the value
  writer.Binary(6, "ab");
  CompactWriter inner = writer.Struct(8);
  inner.I16(1, 100);  // zigzag 200: two bytes, seven bits each
  inner.End();
  writer.End();
  EXPECT_EQ(bytes, "\x15\x06\x36\x01\x11\x18\x02"s + "ab\x2C\x14\xC8\x01\x00\x00"s);
}

TEST(CompactWriterTest, LongListsWriteTheirLengthBehindTheType) {
  std::string bytes;
  CompactWriter(&bytes).List(1, CompactWriter::kI32, 14);
  CompactWriter(&bytes).List(1, CompactWriter::kI32, 200);
  EXPECT_EQ(bytes, "\x19\xE5\x19\xF5\xC8\x01");
}

}  // namespace
}  // namespace ps::parquet
