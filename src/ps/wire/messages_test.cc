#include "ps/wire/messages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <utility>

namespace ps::wire {
namespace {

// Storage aligned to 8 whose last byte is the last of an allocation, so that a sanitizer sees a
// read beyond the end.
class Payload {
 public:
  explicit Payload(std::span<const std::byte> bytes)
      : bytes_(bytes.size()), words_(new std::byte[std::max<std::size_t>(bytes.size(), 1)]) {
    if (!bytes.empty()) std::memcpy(words_.get(), bytes.data(), bytes.size());
  }
  std::span<const std::byte> span() const { return {words_.get(), bytes_}; }

 private:
  std::size_t bytes_;
  std::unique_ptr<std::byte[]> words_;
};

SectionHead Rows(std::uint32_t id, std::uint32_t count, std::uint32_t dim) {
  SectionHead head;
  head.id = id;
  head.count = count;
  head.dim = dim;
  return head;
}

SectionHead Chunk(SectionKind kind, std::uint32_t id, std::uint32_t chunk, std::uint32_t count) {
  SectionHead head;
  head.kind = kind;
  head.id = id;
  head.chunk = chunk;
  head.count = count;
  return head;
}

void AppendSection(MessageType type, const SectionHead& head, std::vector<std::byte>* out) {
  std::size_t at = out->size();
  std::size_t body_bytes = SectionBodyBytes(type, head);
  out->resize(at + kSectionHeadBytes + body_bytes);
  EncodeSectionHead(head, out->data() + at);
  for (std::size_t i = 0; i < body_bytes; ++i) {
    (*out)[at + kSectionHeadBytes + i] = static_cast<std::byte>(i % 63);
  }
}

std::vector<std::byte> SamplePush() {
  std::vector<std::byte> payload;
  AppendSection(MessageType::kPush, Rows(3, 5, 3), &payload);
  AppendSection(MessageType::kPush, Chunk(SectionKind::kChunk, 1, 2, 7), &payload);
  AppendSection(MessageType::kPush, Chunk(SectionKind::kChunkAssign, 4, 0, 2), &payload);
  return payload;
}

std::vector<std::byte> SamplePull() {
  std::vector<std::byte> payload;
  SectionHead rows = Rows(3, 5, 16);
  rows.flags = kCreateMissing;
  AppendSection(MessageType::kPull, rows, &payload);
  SectionHead chunk = Chunk(SectionKind::kChunk, 1, 2, 0);
  chunk.version = 77;
  AppendSection(MessageType::kPull, chunk, &payload);
  return payload;
}

Status DecodeStatus(MessageType type, std::span<const std::byte> bytes) {
  return DecodeSections(type, Payload(bytes).span()).status();
}

TEST(Messages, BodySizesFollowTheTable) {
  SectionHead rows = Rows(0, 5, 3);
  EXPECT_EQ(SectionBodyBytes(MessageType::kPull, rows), 40u);
  EXPECT_EQ(SectionBodyBytes(MessageType::kPullReply, rows), 64u);  // 60, padded
  EXPECT_EQ(SectionBodyBytes(MessageType::kPush, rows), 104u);      // 40 + 60, padded
  SectionHead chunk = Chunk(SectionKind::kChunk, 0, 0, 7);
  EXPECT_EQ(SectionBodyBytes(MessageType::kPull, chunk), 0u);
  EXPECT_EQ(SectionBodyBytes(MessageType::kPullReply, chunk), 32u);
  EXPECT_EQ(SectionBodyBytes(MessageType::kPush, chunk), 32u);
}

TEST(Messages, HugeCountsGiveHugeSizesNotSmallOnes) {
  constexpr std::uint32_t kMax = std::numeric_limits<std::uint32_t>::max();
  for (auto [count, dim] :
       {std::pair{kMax, kMax}, {kMax, 0x80000000u}, {0x40000000u, 0x40000000u}}) {
    EXPECT_GT(SectionBodyBytes(MessageType::kPush, Rows(0, count, dim)), std::size_t{1} << 60);
  }
}

TEST(Messages, PushSurvivesTheWire) {
  Payload payload(SamplePush());
  auto sections = DecodeSections(MessageType::kPush, payload.span());
  ASSERT_TRUE(sections.ok()) << sections.status().ToString();
  ASSERT_EQ(sections->size(), 3u);
  const SectionView& rows = (*sections)[0];
  EXPECT_EQ(rows.head.id, 3u);
  EXPECT_EQ(rows.keys.size(), 5u);
  EXPECT_EQ(rows.floats.size(), 15u);
  EXPECT_EQ(reinterpret_cast<const std::byte*>(rows.floats.data()),
            payload.span().data() + kSectionHeadBytes + 40);
  EXPECT_EQ((*sections)[1].head.chunk, 2u);
  EXPECT_EQ((*sections)[1].floats.size(), 7u);
  EXPECT_EQ((*sections)[2].head.kind, SectionKind::kChunkAssign);
  EXPECT_EQ((*sections)[2].floats.size(), 2u);
}

TEST(Messages, PullSurvivesTheWire) {
  Payload payload(SamplePull());
  auto sections = DecodeSections(MessageType::kPull, payload.span());
  ASSERT_TRUE(sections.ok()) << sections.status().ToString();
  ASSERT_EQ(sections->size(), 2u);
  EXPECT_EQ((*sections)[0].head.flags, kCreateMissing);
  EXPECT_EQ((*sections)[0].keys.size(), 5u);
  EXPECT_TRUE((*sections)[0].floats.empty());
  EXPECT_EQ((*sections)[1].head.version, 77u);
}

TEST(Messages, NoSectionsIsAMessageToo) {
  auto sections = DecodeSections(MessageType::kPull, {});
  ASSERT_TRUE(sections.ok());
  EXPECT_TRUE(sections->empty());
}

TEST(Messages, EachShorterPushIsRefusedUnlessItEndsWithASection) {
  std::vector<std::byte> whole = SamplePush();
  std::vector<std::size_t> ends = {0, 32 + 104, 32 + 104 + 32 + 32, whole.size()};
  for (std::size_t bytes = 0; bytes <= whole.size(); ++bytes) {
    Status status = DecodeStatus(MessageType::kPush, std::span(whole).first(bytes));
    bool at_an_end = std::find(ends.begin(), ends.end(), bytes) != ends.end();
    EXPECT_EQ(status.ok(), at_an_end) << bytes << ": " << status.ToString();
    EXPECT_TRUE(status.ok() || status.code() == StatusCode::kDataCorruption);
  }
}

TEST(Messages, SectionsOfCopiesStandInReplicateAloneAndOthersDoNot) {
  for (SectionKind kind : {SectionKind::kReplicaOf, SectionKind::kChunkState}) {
    std::vector<std::byte> payload;
    AppendSection(MessageType::kReplicate, Chunk(kind, 1, 2, 0), &payload);
    EXPECT_TRUE(DecodeSections(MessageType::kReplicate, Payload(payload).span()).ok());
    EXPECT_FALSE(DecodeSections(MessageType::kPush, Payload(payload).span()).ok());
    EXPECT_FALSE(DecodeSections(MessageType::kPull, Payload(payload).span()).ok());
  }
  std::vector<std::byte> push = SamplePush();
  EXPECT_FALSE(DecodeSections(MessageType::kReplicate, Payload(push).span()).ok());

  std::vector<std::byte> state;
  const auto floats = static_cast<std::uint32_t>(kChunkStateFloatsMax);
  AppendSection(MessageType::kReplicate, Chunk(SectionKind::kChunkState, 1, 2, floats), &state);
  Payload largest(state);
  auto sections = DecodeSections(MessageType::kReplicate, largest.span());
  ASSERT_TRUE(sections.ok()) << sections.status().ToString();
  EXPECT_EQ((*sections)[0].floats.size(), kChunkStateFloatsMax);
  EncodeSectionHead(Chunk(SectionKind::kChunkState, 1, 2, floats + 1), state.data());
  EXPECT_FALSE(DecodeSections(MessageType::kReplicate, Payload(state).span()).ok());
}

TEST(Messages, HeadsThatCannotBeAreRefused) {
  auto refused = [](MessageType type, SectionHead head) {
    std::vector<std::byte> bytes(kSectionHeadBytes + 1'024);
    EncodeSectionHead(head, bytes.data());
    return DecodeStatus(type, bytes).code() == StatusCode::kDataCorruption;
  };
  EXPECT_TRUE(refused(MessageType::kPull, Rows(0, 1, 0)));
  EXPECT_TRUE(refused(MessageType::kPull, Rows(0, 1, limits::kEmbeddingDimMax + 1)));
  EXPECT_TRUE(refused(MessageType::kPush, Rows(0, 0xffffffff, 65'536)));
  EXPECT_TRUE(refused(MessageType::kPush, Rows(0, 0x20000000, 1)));
  EXPECT_TRUE(refused(MessageType::kPull, Chunk(SectionKind::kChunkAssign, 0, 0, 0)));
  EXPECT_TRUE(refused(MessageType::kPush,
                      Chunk(SectionKind::kChunk, 0, 0, limits::kTensorChunkFloats + 1)));
  EXPECT_TRUE(refused(MessageType::kPush, Chunk(static_cast<SectionKind>(9), 0, 0, 0)));
  SectionHead rows = Rows(0, 1, 1);
  rows.flags = 2;
  EXPECT_TRUE(refused(MessageType::kPull, rows));
  rows = Rows(0, 1, 1);
  rows.rate_scale = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(refused(MessageType::kPush, rows));
  rows.rate_scale = -1.0f;
  EXPECT_TRUE(refused(MessageType::kPush, rows));
}

TEST(Messages, SectionsAtTheLimitPassAndOneMoreDoesNot) {
  std::vector<std::byte> payload;
  SectionHead head = Chunk(SectionKind::kChunk, 0, 0, 0);
  for (std::size_t i = 0; i < limits::kSectionsPerFrameMax; ++i) {
    payload.resize(payload.size() + kSectionHeadBytes);
    EncodeSectionHead(head, payload.data() + payload.size() - kSectionHeadBytes);
  }
  EXPECT_TRUE(DecodeStatus(MessageType::kPull, payload).ok());
  payload.resize(payload.size() + kSectionHeadBytes);
  EncodeSectionHead(head, payload.data() + payload.size() - kSectionHeadBytes);
  EXPECT_EQ(DecodeStatus(MessageType::kPull, payload).code(), StatusCode::kDataCorruption);
}

TEST(Messages, TypesWithoutSectionsAndUnalignedPayloadsAreDefectsOfTheCaller) {
  EXPECT_EQ(DecodeStatus(MessageType::kControl, {}).code(), StatusCode::kInternal);
  std::vector<std::byte> bytes(64);
  auto unaligned = std::span<const std::byte>(bytes).subspan(1, 40);
  EXPECT_EQ(DecodeSections(MessageType::kPull, unaligned).status().code(), StatusCode::kInternal);
}

// Hostile bytes: real messages with bits flipped, cut, grown, spliced and numbers put at their
// edges. What is accepted must lie inside the payload; the sanitizers see every read.
class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::vector<std::byte> Mutate(std::vector<std::byte> bytes) {
    for (std::size_t steps = 1 + random_() % 4; steps > 0; --steps) Step(&bytes);
    return bytes;
  }

 private:
  void Step(std::vector<std::byte>* bytes) {
    std::size_t at = bytes->empty() ? 0 : random_() % bytes->size();
    switch (random_() % 5) {
      case 0:
        if (!bytes->empty()) (*bytes)[at] ^= std::byte{1} << (random_() % 8);
        break;
      case 1:
        bytes->resize(at);
        break;
      case 2:
        bytes->resize(bytes->size() + random_() % 64, static_cast<std::byte>(random_()));
        break;
      case 3:
        bytes->insert(bytes->end(), bytes->begin(), bytes->begin() + static_cast<long>(at));
        break;
      case 4:
        PutEdge(bytes, at & ~std::size_t{3});
        break;
    }
  }

  void PutEdge(std::vector<std::byte>* bytes, std::size_t at) {
    constexpr std::uint32_t kEdges[] = {0,          1,          0x7fffffff, 0x80000000, 0xffffffff,
                                        0x20000000, 0x40000000, 65'536,     65'537,     262'145};
    std::uint32_t edge = kEdges[random_() % std::size(kEdges)];
    if (at + sizeof(edge) <= bytes->size()) std::memcpy(bytes->data() + at, &edge, sizeof(edge));
  }

  std::mt19937_64 random_;
};

bool Inside(std::span<const std::byte> outer, const void* begin, std::size_t bytes) {
  auto* first = static_cast<const std::byte*>(begin);
  return bytes == 0 || (first >= outer.data() && first + bytes <= outer.data() + outer.size());
}

TEST(Messages, HostileBytesNeverReachBeyondThePayload) {
  Mutator mutator(20'240'601);
  int accepted = 0;
  int refused = 0;
  for (int i = 0; i < 60'000; ++i) {
    MessageType type = i % 3 == 0   ? MessageType::kPull
                       : i % 3 == 1 ? MessageType::kPush
                                    : MessageType::kPullReply;
    Payload payload(mutator.Mutate(i % 3 == 0 ? SamplePull() : SamplePush()));
    auto sections = DecodeSections(type, payload.span());
    if (!sections.ok()) {
      ASSERT_EQ(sections.status().code(), StatusCode::kDataCorruption);
      ++refused;
      continue;
    }
    ++accepted;
    for (const SectionView& view : *sections) {
      ASSERT_TRUE(Inside(payload.span(), view.keys.data(), view.keys.size_bytes()));
      ASSERT_TRUE(Inside(payload.span(), view.floats.data(), view.floats.size_bytes()));
    }
  }
  EXPECT_GT(accepted, 1'000);
  EXPECT_GT(refused, 10'000);
}

TEST(Messages, ErrorSurvivesTheWire) {
  for (int code = 1; code <= static_cast<int>(StatusCode::kInternal); ++code) {
    Status sent(static_cast<StatusCode>(code), "table 'ä' does not exist");
    Status got = DecodeError(EncodeError(sent));
    EXPECT_EQ(got.code(), sent.code());
    EXPECT_EQ(got.message(), sent.message());
  }
}

TEST(Messages, ErrorOfHostileBytesIsStillAnError) {
  EXPECT_EQ(DecodeError({}).code(), StatusCode::kDataCorruption);
  std::vector<std::byte> zeros(8);
  EXPECT_EQ(DecodeError(zeros).code(), StatusCode::kDataCorruption) << "code 0 is no error";
  zeros[0] = std::byte{200};
  EXPECT_EQ(DecodeError(zeros).code(), StatusCode::kDataCorruption);
  std::vector<std::byte> huge = EncodeError(Internal(std::string(1 << 20, 'x')));
  EXPECT_LE(huge.size(), 20'000u);
}

}  // namespace
}  // namespace ps::wire
