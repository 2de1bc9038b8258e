#pragma once

#include <cstddef>
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

// Fills `out` (header.raw_bytes long, checked against limits by DecodeHeader) from a compressed
// payload. DataCorruption when the bytes do not give exactly raw_bytes.
Status Decompress(const FrameHeader& header, std::span<const std::byte> payload,
                  std::span<std::byte> out);

}  // namespace ps::wire
