#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "ps/base/status.h"
#include "ps/wire/frame.h"

namespace ps::wire {

enum class Compression : std::uint8_t { kNone = 0, kLz4 = 1, kZstd = 2 };
Result<Compression> ParseCompression(const std::string& name);  // "none", "lz4", "zstd"
std::uint16_t CompressionFlag(Compression compression);         // kLz4, kZstd; 0 for kNone

// Payloads smaller than this are never compressed.
inline constexpr std::size_t kCompressBytesMin = 4'096;
// A payload is compressed only when a sample of it shrinks below this share of its size.
inline constexpr double kCompressRatioMax = 0.8;

// True and `out` filled when compressing `payload` paid; false: send it as it is.
bool TryCompress(Compression compression, std::span<const std::byte> payload,
                 std::vector<std::byte>* out);
// The same for a payload that lies in several pieces; they are joined only when a sample shrinks.
bool TryCompress(Compression compression, std::span<const std::span<const std::byte>> parts,
                 std::vector<std::byte>* out);

// TryCompress for the payloads of one sender, which mostly resemble each other: while none shrinks,
// ever fewer are sampled, one in kSkippedMax + 1 at the end. Thread-safe.
class PayingCompressor {
 public:
  static constexpr std::uint32_t kSkippedMax = 63;

  bool TryCompress(Compression compression, std::span<const std::span<const std::byte>> parts,
                   std::vector<std::byte>* out);

 private:
  // Threads that meet here may sample one payload more or less.
  std::atomic<std::uint32_t> pause_{0};  // payloads to skip after the next one that does not shrink
  std::atomic<std::uint32_t> skip_{0};
};

// Fills `out` (header.raw_bytes long, checked against limits by DecodeHeader) from a compressed
// payload. DataCorruption when the bytes do not give exactly raw_bytes.
Status Decompress(const FrameHeader& header, std::span<const std::byte> payload,
                  std::span<std::byte> out);

}  // namespace ps::wire
