#include "ps/wire/codec.h"

#include <gtest/gtest.h>

#include <random>

namespace ps::wire {
namespace {

std::vector<std::byte> Compressible(std::size_t bytes) {
  std::vector<std::byte> payload(bytes);
  for (std::size_t i = 0; i < bytes; ++i) payload[i] = static_cast<std::byte>((i / 16) % 5);
  return payload;
}

std::vector<std::byte> Noise(std::size_t bytes, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> payload(bytes);
  for (std::byte& b : payload) b = static_cast<std::byte>(random());
  return payload;
}

FrameHeader HeaderOf(Compression compression, std::size_t payload_bytes, std::size_t raw_bytes) {
  FrameHeader header;
  header.type = MessageType::kPullReply;
  header.flags = CompressionFlag(compression);
  header.payload_bytes = static_cast<std::uint32_t>(payload_bytes);
  header.raw_bytes = static_cast<std::uint32_t>(raw_bytes);
  return header;
}

class Codec : public testing::TestWithParam<Compression> {};

TEST_P(Codec, WhatShrinksComesBackWhole) {
  for (std::size_t bytes : {kCompressBytesMin, std::size_t{100'001}, std::size_t{3} << 20}) {
    std::vector<std::byte> payload = Compressible(bytes);
    std::vector<std::byte> sent;
    ASSERT_TRUE(TryCompress(GetParam(), payload, &sent)) << bytes;
    EXPECT_LT(sent.size(), bytes / 2);
    std::vector<std::byte> got(bytes);
    ASSERT_TRUE(Decompress(HeaderOf(GetParam(), sent.size(), bytes), sent, got).ok());
    EXPECT_EQ(got, payload);
  }
}

TEST_P(Codec, PiecesGiveTheSameAsTheWhole) {
  std::vector<std::byte> payload = Compressible(100'000);
  std::span<const std::byte> whole(payload);
  std::span<const std::byte> parts[] = {
      whole.first(10), {}, whole.subspan(10, 50'000), whole.subspan(50'010)};
  std::vector<std::byte> a, b;
  ASSERT_TRUE(TryCompress(GetParam(), payload, &a));
  ASSERT_TRUE(TryCompress(GetParam(), parts, &b));
  EXPECT_EQ(a, b);
}

TEST_P(Codec, SmallOrIncompressiblePayloadsAreSentAsTheyAre) {
  std::vector<std::byte> out;
  EXPECT_FALSE(TryCompress(GetParam(), Compressible(kCompressBytesMin - 1), &out));
  EXPECT_FALSE(TryCompress(GetParam(), Noise(1 << 20), &out));
  EXPECT_FALSE(TryCompress(GetParam(), std::span<const std::byte>{}, &out));
}

TEST_P(Codec, WrongAnnouncedSizeIsCorruption) {
  std::vector<std::byte> payload = Compressible(50'000);
  std::vector<std::byte> sent;
  ASSERT_TRUE(TryCompress(GetParam(), payload, &sent));
  for (std::size_t raw : {49'999u, 50'001u}) {
    std::vector<std::byte> got(raw);
    EXPECT_EQ(Decompress(HeaderOf(GetParam(), sent.size(), raw), sent, got).code(),
              StatusCode::kDataCorruption);
  }
}

TEST_P(Codec, HostileBytesNeverWriteBeyondTheOutput) {
  std::vector<std::byte> payload = Compressible(20'000);
  std::vector<std::byte> sent;
  ASSERT_TRUE(TryCompress(GetParam(), payload, &sent));
  std::mt19937_64 random(5);
  for (int i = 0; i < 3'000; ++i) {
    std::vector<std::byte> bad = i % 10 == 0 ? Noise(sent.size(), random()) : sent;
    for (std::size_t flips = 1 + random() % 8; flips > 0; --flips) {
      bad[random() % bad.size()] ^= std::byte{1} << (random() % 8);
    }
    if (i % 3 == 0) bad.resize(1 + random() % bad.size());
    std::vector<std::byte> got(payload.size());
    Status status = Decompress(HeaderOf(GetParam(), bad.size(), got.size()), bad, got);
    ASSERT_TRUE(status.ok() || status.code() == StatusCode::kDataCorruption);
  }
}

INSTANTIATE_TEST_SUITE_P(Both, Codec, testing::Values(Compression::kLz4, Compression::kZstd));

TEST(CodecNames, KnownNamesParseAndOthersNameWhatIsAllowed) {
  EXPECT_EQ(*ParseCompression("lz4"), Compression::kLz4);
  EXPECT_EQ(*ParseCompression("zstd"), Compression::kZstd);
  EXPECT_EQ(*ParseCompression("none"), Compression::kNone);
  Status status = ParseCompression("gzip").status();
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("lz4"), std::string::npos);
}

TEST(CodecNames, NoneNeverCompresses) {
  std::vector<std::byte> out;
  EXPECT_FALSE(TryCompress(Compression::kNone, Compressible(1 << 20), &out));
}

TEST_P(Codec, WhatNeverShrinksIsSampledEverMoreRarely) {
  PayingCompressor compressor;
  std::vector<std::byte> noise = Noise(8'192);
  std::vector<std::byte> shrinks = Compressible(8'192);
  std::vector<std::byte> out;
  auto takes = [&](std::span<const std::byte> payload) {
    return compressor.TryCompress(GetParam(), {&payload, 1}, &out);
  };
  EXPECT_TRUE(takes(shrinks));
  EXPECT_TRUE(takes(shrinks)) << "every one, as long as it pays";
  for (int i = 0; i < 1'000; ++i) EXPECT_FALSE(takes(noise));
  int skipped = 0;
  while (skipped < 1'000 && !takes(shrinks)) ++skipped;
  EXPECT_GT(skipped, 0);
  EXPECT_LE(skipped, static_cast<int>(PayingCompressor::kSkippedMax));
  EXPECT_TRUE(takes(shrinks)) << "it pays again";
}

}  // namespace
}  // namespace ps::wire
