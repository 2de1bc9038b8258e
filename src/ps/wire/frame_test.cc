#include "ps/wire/frame.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace ps::wire {
namespace {

using HeaderBytes = std::array<std::byte, kFrameHeaderBytes>;

FrameHeader SampleHeader() {
  FrameHeader header;
  header.type = MessageType::kPush;
  header.flags = kMore | kChecksummed;
  header.request_id = 0x0102030405060708ull;
  header.stream = 0x1112131415161718ull;
  header.sequence = 0x2122232425262728ull;
  header.payload_bytes = 1'000;
  header.raw_bytes = 1'000;
  header.payload_checksum = 0xa1b2c3d4;
  return header;
}

HeaderBytes Encode(const FrameHeader& header) {
  HeaderBytes bytes;
  EncodeHeader(header, bytes);
  return bytes;
}

Status DecodeStatus(const FrameHeader& header, std::size_t payload_bytes_max = 1 << 20) {
  return DecodeHeader(Encode(header), payload_bytes_max).status();
}

TEST(Frame, HeaderSurvivesTheWire) {
  FrameHeader sent = SampleHeader();
  auto got = DecodeHeader(Encode(sent), 1'000);
  ASSERT_TRUE(got.ok()) << got.status().ToString();
  EXPECT_EQ(got->type, sent.type);
  EXPECT_EQ(got->flags, sent.flags);
  EXPECT_EQ(got->request_id, sent.request_id);
  EXPECT_EQ(got->stream, sent.stream);
  EXPECT_EQ(got->sequence, sent.sequence);
  EXPECT_EQ(got->payload_bytes, sent.payload_bytes);
  EXPECT_EQ(got->raw_bytes, sent.raw_bytes);
  EXPECT_EQ(got->payload_checksum, sent.payload_checksum);
}

TEST(Frame, HeaderBytesAreThoseOfTheDocument) {
  HeaderBytes bytes = Encode(SampleHeader());
  std::string hex;
  for (std::byte b : bytes) {
    char text[3];
    std::snprintf(text, sizeof(text), "%02x", static_cast<unsigned>(b));
    hex += text;
  }
  EXPECT_EQ(hex,
            "21505331"
            "01"
            "12"
            "0300"
            "0807060504030201"
            "1817161514131211"
            "2827262524232221"
            "e8030000"
            "e8030000"
            "d4c3b2a1"
            "332891db");
}

TEST(Frame, EachFlippedBitOfAHeaderIsNoticed) {
  HeaderBytes good = Encode(SampleHeader());
  for (std::size_t bit = 0; bit < good.size() * 8; ++bit) {
    HeaderBytes bad = good;
    bad[bit / 8] ^= std::byte{1} << (bit % 8);
    auto got = DecodeHeader(bad, 1 << 20);
    ASSERT_FALSE(got.ok()) << "bit " << bit;
    EXPECT_EQ(got.status().code(), StatusCode::kDataCorruption);
  }
}

TEST(Frame, PayloadAtTheLimitPassesAndOneByteMoreDoesNot) {
  FrameHeader header = SampleHeader();
  header.payload_bytes = header.raw_bytes = 4'096;
  EXPECT_TRUE(DecodeStatus(header, 4'096).ok());
  Status status = DecodeStatus(header, 4'095);
  EXPECT_EQ(status.code(), StatusCode::kDataCorruption);
  EXPECT_NE(status.message().find("4095"), std::string::npos) << status.message();
}

TEST(Frame, RawSizeBeyondTheLimitIsRefusedThoughTheCompressedOneIsSmall) {
  FrameHeader header = SampleHeader();
  header.flags |= kLz4;
  header.payload_bytes = 100;
  header.raw_bytes = 4'096;
  EXPECT_TRUE(DecodeStatus(header, 4'096).ok());
  EXPECT_FALSE(DecodeStatus(header, 4'095).ok());
}

TEST(Frame, ContradictionsInAHeaderAreRefused) {
  FrameHeader header = SampleHeader();
  header.raw_bytes = 999;
  EXPECT_FALSE(DecodeStatus(header).ok()) << "sizes differ without compression";

  header = SampleHeader();
  header.flags |= kLz4 | kZstd;
  header.raw_bytes = 2'000;
  EXPECT_FALSE(DecodeStatus(header).ok()) << "two compressions";

  header = SampleHeader();
  header.flags |= kLz4;
  EXPECT_FALSE(DecodeStatus(header).ok()) << "compressed and not smaller";

  header = SampleHeader();
  header.flags = 1 << 4;
  header.payload_checksum = 0;
  EXPECT_FALSE(DecodeStatus(header).ok()) << "unknown flag";

  header = SampleHeader();
  header.flags = 0;
  EXPECT_FALSE(DecodeStatus(header).ok()) << "checksum without flag";

  header = SampleHeader();
  header.type = static_cast<MessageType>(99);
  EXPECT_FALSE(DecodeStatus(header).ok()) << "unknown type";
}

TEST(Frame, RandomBytesAreNeverAHeader) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20'000; ++i) {
    HeaderBytes bytes;
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    if (i % 2 == 0) std::memcpy(bytes.data(), &kFrameMagic, sizeof(kFrameMagic));
    ASSERT_FALSE(DecodeHeader(bytes, 1 << 20).ok());
  }
}

TEST(Frame, PayloadChecksumIsStableAndFindsAFlippedBit) {
  std::vector<std::byte> payload(1'000);
  for (std::size_t i = 0; i < payload.size(); ++i) payload[i] = static_cast<std::byte>(i * 7);
  FrameHeader header = SampleHeader();
  header.payload_checksum = PayloadChecksum(payload);
  EXPECT_TRUE(CheckPayload(header, payload).ok());
  EXPECT_EQ(PayloadChecksum({}), 0x38d394c2u) << "XXH3-64 of nothing is 2d06800538d394c2";

  payload[500] ^= std::byte{4};
  EXPECT_EQ(CheckPayload(header, payload).code(), StatusCode::kDataCorruption);
  header.flags &= ~kChecksummed;
  EXPECT_TRUE(CheckPayload(header, payload).ok()) << "no checksum, nothing to compare";
  payload.pop_back();
  EXPECT_EQ(CheckPayload(header, payload).code(), StatusCode::kDataCorruption);
}

TEST(Frame, RunningChecksumDoesNotDependOnTheCuts) {
  std::vector<std::byte> payload(5'000);
  for (std::size_t i = 0; i < payload.size(); ++i) payload[i] = static_cast<std::byte>(i * i);
  RunningChecksum running;
  for (std::size_t cut : {1u, 7u, 240u, 241u, 4'999u}) {
    running.Reset();
    running.Add(std::span(payload).first(cut));
    running.Add(std::span(payload).subspan(cut));
    EXPECT_EQ(running.value(), PayloadChecksum(payload)) << cut;
  }
}

}  // namespace
}  // namespace ps::wire
