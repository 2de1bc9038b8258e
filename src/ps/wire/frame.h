#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "ps/base/limits.h"
#include "ps/base/status.h"

namespace ps::wire {

// One frame = a header of 48 bytes and a payload. Little-endian. docs/wire.md is the byte table.
//
// A message is one frame, or several with the same request_id and type of which all but the last
// carry kMore. Frames of one message follow each other on a connection without others in between
// (requests); reply parts may come in any order and carry their part number in `sequence`.
enum class MessageType : std::uint8_t {
  // Handshake; fixed-size payloads (handshake.h); nothing else is read before it is through.
  kHello = 1,
  kChallenge = 2,
  kProof = 3,
  kWelcome = 4,
  // Data: payloads are sections (messages.h).
  kPull = 16,
  kPullReply = 17,
  kPush = 18,
  kPushReply = 19,  // empty payload: the push is applied (now or before)
  // From server to server: what a push has made of dense tensors; answered as a push.
  kReplicate = 20,
  // Control: JSON object, {"op": ...} -> reply object.
  kControl = 32,
  kControlReply = 33,
  // Reply to any request: ErrorPayload (messages.h).
  kError = 48,
};
bool IsKnown(MessageType type);

enum FrameFlags : std::uint16_t {
  kMore = 1 << 0,         // further frames of this message follow
  kChecksummed = 1 << 1,  // payload_checksum is set (always over TCP; left out on Unix sockets)
  kLz4 = 1 << 2,          // payload is compressed; raw_bytes is its size before
  kZstd = 1 << 3,
};

struct FrameHeader {
  MessageType type = MessageType::kError;
  std::uint16_t flags = 0;
  std::uint64_t request_id = 0;  // chosen by the requester, echoed by the reply
  std::uint64_t stream = 0;      // push, replicate: the stream; else 0
  std::uint64_t sequence = 0;    // the same: number in the stream; reply: part number
  std::uint32_t payload_bytes = 0;
  std::uint32_t raw_bytes = 0;         // = payload_bytes unless compressed
  std::uint32_t payload_checksum = 0;  // low 32 bits of XXH3-64 of the payload as sent
};

inline constexpr std::uint32_t kFrameMagic = 0x31535021;  // "!PS1"
inline constexpr std::uint8_t kWireVersion = 1;
inline constexpr std::size_t kFrameHeaderBytes = 48;
// Requests are numbered from 1 on. A reply to 0 comes unasked: a notice.
inline constexpr std::uint64_t kNoticeId = 0;

// Writes the header with magic, version and its own checksum.
void EncodeHeader(const FrameHeader& header, std::span<std::byte, kFrameHeaderBytes> out);

// Checks magic, version, header checksum, known type and flags, sizes against `payload_bytes_max`
// (both payload_bytes and raw_bytes) before anything is believed. DataCorruption otherwise.
Result<FrameHeader> DecodeHeader(std::span<const std::byte, kFrameHeaderBytes> bytes,
                                 std::size_t payload_bytes_max);

std::uint32_t PayloadChecksum(std::span<const std::byte> payload);
Status CheckPayload(const FrameHeader& header, std::span<const std::byte> payload);

// PayloadChecksum of bytes that come in pieces, hashed while they are still in the cache.
class RunningChecksum {
 public:
  RunningChecksum();
  ~RunningChecksum();
  void Reset();
  void Add(std::span<const std::byte> bytes);
  std::uint32_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace ps::wire
