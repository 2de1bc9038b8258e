#include "ps/client/request.h"

#include <gtest/gtest.h>

namespace ps::client {
namespace {

Section RowsOf(std::uint32_t dim) {
  Section section;
  section.head.dim = dim;
  return section;
}

std::size_t KeysIn(std::span<const Section> frame) {
  std::size_t keys = 0;
  for (const Section& section : frame) keys += section.head.count;
  return keys;
}

TEST(RequestBuilderTest, FramesHoldAtMostTheBatchSizeOverAllTables) {
  ServerRequest request;
  RequestBuilder builder(&request, {.keys_max = 100, .bytes_max = 1u << 30});
  builder.AddRows(RowsOf(4), 0, 250);
  builder.AddRows(RowsOf(8), 10, 80);
  builder.Finish();
  ASSERT_EQ(request.frame_count(), 4u);
  EXPECT_EQ(KeysIn(request.frame(0)), 100u);
  EXPECT_EQ(KeysIn(request.frame(1)), 100u);
  EXPECT_EQ(KeysIn(request.frame(2)), 100u);
  EXPECT_EQ(KeysIn(request.frame(3)), 20u);
  EXPECT_EQ(request.frame(2)[1].first, 10u);
  EXPECT_EQ(request.frame(3)[0].first, 60u);
}

TEST(RequestBuilderTest, FramesStayWithinTheirBytesAndKeepTheKeysInOrder) {
  ServerRequest request;
  RequestBuilder builder(&request, {.keys_max = 10'000, .bytes_max = 4'096});
  builder.AddRows(RowsOf(16), 0, 1'000);
  builder.Finish();
  std::size_t next = 0;
  for (std::size_t k = 0; k < request.frame_count(); ++k) {
    std::size_t bytes = 0;
    for (const Section& section : request.frame(k)) {
      EXPECT_EQ(section.first, next);
      next += section.head.count;
      bytes +=
          wire::kSectionHeadBytes + wire::SectionBodyBytes(wire::MessageType::kPush, section.head);
    }
    EXPECT_LE(bytes, 4'096u);
  }
  EXPECT_EQ(next, 1'000u);
}

TEST(RequestBuilderTest, ARowLargerThanAFrameTravelsAlone) {
  ServerRequest request;
  RequestBuilder builder(&request, {.keys_max = 10'000, .bytes_max = 65'536});
  builder.AddRows(RowsOf(65'536), 0, 3);
  Section chunk;
  chunk.head.kind = wire::SectionKind::kChunk;
  chunk.head.count = 262'144;
  builder.AddChunk(chunk);
  builder.Finish();
  ASSERT_EQ(request.frame_count(), 4u);
  for (std::size_t k = 0; k < 4; ++k) EXPECT_EQ(request.frame(k).size(), 1u);
}

TEST(RequestBuilderTest, NothingToAskMakesNoFrame) {
  ServerRequest request;
  RequestBuilder builder(&request, {});
  builder.AddRows(RowsOf(4), 7, 7);
  builder.Finish();
  EXPECT_EQ(request.frame_count(), 0u);
}

}  // namespace
}  // namespace ps::client
