#include "ps/wire/frame.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <bit>
#include <cstring>
#include <string>

#include "ps/wire/bytes.h"

namespace ps::wire {
namespace {

constexpr std::size_t kHeaderChecksumAt = 44;
constexpr std::uint16_t kKnownFlags = kMore | kChecksummed | kLz4 | kZstd;

std::uint32_t HeaderChecksum(const std::byte* header) {
  return static_cast<std::uint32_t>(XXH3_64bits(header, kHeaderChecksumAt));
}

Status CheckFlagsAndSizes(const FrameHeader& header, std::size_t payload_bytes_max) {
  if ((header.flags & ~kKnownFlags) != 0) {
    return DataCorruption("frame header: unknown flags " + std::to_string(header.flags));
  }
  if ((header.flags & kLz4) != 0 && (header.flags & kZstd) != 0) {
    return DataCorruption("frame header: two compressions at once");
  }
  if ((header.flags & kChecksummed) == 0 && header.payload_checksum != 0) {
    return DataCorruption("frame header: a payload checksum without its flag");
  }
  if (header.payload_bytes > payload_bytes_max || header.raw_bytes > payload_bytes_max) {
    return DataCorruption("frame header: payload of " + std::to_string(header.payload_bytes) +
                          " bytes (" + std::to_string(header.raw_bytes) +
                          " uncompressed), more than the limit of " +
                          std::to_string(payload_bytes_max));
  }
  bool compressed = (header.flags & (kLz4 | kZstd)) != 0;
  bool sizes_agree = compressed
                         ? header.payload_bytes > 0 && header.payload_bytes < header.raw_bytes
                         : header.payload_bytes == header.raw_bytes;
  if (!sizes_agree) {
    return DataCorruption("frame header: payload of " + std::to_string(header.payload_bytes) +
                          " bytes cannot hold " + std::to_string(header.raw_bytes));
  }
  return Status::Ok();
}

}  // namespace

bool IsKnown(MessageType type) {
  switch (type) {
    case MessageType::kHello:
    case MessageType::kChallenge:
    case MessageType::kProof:
    case MessageType::kWelcome:
    case MessageType::kPull:
    case MessageType::kPullReply:
    case MessageType::kPush:
    case MessageType::kPushReply:
    case MessageType::kReplicate:
    case MessageType::kControl:
    case MessageType::kControlReply:
    case MessageType::kError:
      return true;
  }
  return false;
}

void EncodeHeader(const FrameHeader& header, std::span<std::byte, kFrameHeaderBytes> out) {
  std::byte* bytes = out.data();
  Put(bytes, 0, kFrameMagic);
  Put(bytes, 4, kWireVersion);
  Put(bytes, 5, static_cast<std::uint8_t>(header.type));
  Put(bytes, 6, header.flags);
  Put(bytes, 8, header.request_id);
  Put(bytes, 16, header.stream);
  Put(bytes, 24, header.sequence);
  Put(bytes, 32, header.payload_bytes);
  Put(bytes, 36, header.raw_bytes);
  Put(bytes, 40, header.payload_checksum);
  Put(bytes, kHeaderChecksumAt, HeaderChecksum(bytes));
}

Result<FrameHeader> DecodeHeader(std::span<const std::byte, kFrameHeaderBytes> bytes,
                                 std::size_t payload_bytes_max) {
  const std::byte* in = bytes.data();
  if (Get<std::uint32_t>(in, 0) != kFrameMagic) {
    return DataCorruption("frame header: not a frame of this protocol (wrong magic number)");
  }
  if (auto version = Get<std::uint8_t>(in, 4); version != kWireVersion) {
    return DataCorruption("frame header: wire version " + std::to_string(version) +
                          ", this side speaks " + std::to_string(kWireVersion) +
                          "; run the same release on both sides");
  }
  if (Get<std::uint32_t>(in, kHeaderChecksumAt) != HeaderChecksum(in)) {
    return DataCorruption("frame header: checksum does not match");
  }
  FrameHeader header;
  header.type = static_cast<MessageType>(Get<std::uint8_t>(in, 5));
  header.flags = Get<std::uint16_t>(in, 6);
  header.request_id = Get<std::uint64_t>(in, 8);
  header.stream = Get<std::uint64_t>(in, 16);
  header.sequence = Get<std::uint64_t>(in, 24);
  header.payload_bytes = Get<std::uint32_t>(in, 32);
  header.raw_bytes = Get<std::uint32_t>(in, 36);
  header.payload_checksum = Get<std::uint32_t>(in, 40);
  if (!IsKnown(header.type)) {
    return DataCorruption("frame header: unknown message type " +
                          std::to_string(static_cast<int>(header.type)));
  }
  PS_RETURN_IF_ERROR(CheckFlagsAndSizes(header, payload_bytes_max));
  return header;
}

std::uint32_t PayloadChecksum(std::span<const std::byte> payload) {
  return static_cast<std::uint32_t>(XXH3_64bits(payload.data(), payload.size()));
}

Status CheckPayload(const FrameHeader& header, std::span<const std::byte> payload) {
  if (payload.size() != header.payload_bytes) {
    return DataCorruption("frame payload: " + std::to_string(payload.size()) +
                          " bytes instead of " + std::to_string(header.payload_bytes));
  }
  if ((header.flags & kChecksummed) != 0 && PayloadChecksum(payload) != header.payload_checksum) {
    return DataCorruption("frame payload: checksum does not match");
  }
  return Status::Ok();
}

struct RunningChecksum::State {
  alignas(64) XXH3_state_t xxh;
};

RunningChecksum::RunningChecksum() : state_(new State) { Reset(); }
RunningChecksum::~RunningChecksum() = default;
void RunningChecksum::Reset() { XXH3_64bits_reset(&state_->xxh); }
void RunningChecksum::Add(std::span<const std::byte> bytes) {
  XXH3_64bits_update(&state_->xxh, bytes.data(), bytes.size());
}
std::uint32_t RunningChecksum::value() const {
  return static_cast<std::uint32_t>(XXH3_64bits_digest(&state_->xxh));
}

}  // namespace ps::wire
