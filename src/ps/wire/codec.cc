#include "ps/wire/codec.h"

#include <lz4.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>

namespace ps::wire {
namespace {

// The fastest level: the wire is usually faster than a thorough search.
constexpr int kZstdLevel = 1;
// The sample: pieces spread evenly over the payload, so that keys in front do not speak for floats.
constexpr std::size_t kSamplePieces = 4;
constexpr std::size_t kSamplePieceBytes = 4'096;

std::size_t CompressBound(Compression compression, std::size_t bytes) {
  if (compression == Compression::kLz4) {
    return static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(bytes)));
  }
  return ZSTD_compressBound(bytes);
}

// Bytes written to `out`, 0 = did not work.
std::size_t CompressInto(Compression compression, std::span<const std::byte> in,
                         std::span<std::byte> out) {
  if (compression == Compression::kLz4) {
    int written = LZ4_compress_default(reinterpret_cast<const char*>(in.data()),
                                       reinterpret_cast<char*>(out.data()),
                                       static_cast<int>(in.size()), static_cast<int>(out.size()));
    return written > 0 ? static_cast<std::size_t>(written) : 0;
  }
  std::size_t written = ZSTD_compress(out.data(), out.size(), in.data(), in.size(), kZstdLevel);
  return ZSTD_isError(written) ? 0 : written;
}

bool Shrinks(std::size_t compressed_bytes, std::size_t raw_bytes) {
  return compressed_bytes > 0 &&
         static_cast<double>(compressed_bytes) < kCompressRatioMax * static_cast<double>(raw_bytes);
}

// Copies bytes at..at+out.size() of the joined parts.
void CopyFromParts(std::span<const std::span<const std::byte>> parts, std::size_t at,
                   std::span<std::byte> out) {
  for (std::span<const std::byte> part : parts) {
    if (at >= part.size()) {
      at -= part.size();
      continue;
    }
    std::size_t take = std::min(part.size() - at, out.size());
    std::memcpy(out.data(), part.data() + at, take);
    out = out.subspan(take);
    at = 0;
    if (out.empty()) return;
  }
}

bool SampleShrinks(Compression compression, std::span<const std::span<const std::byte>> parts,
                   std::size_t bytes) {
  std::size_t piece = std::min(kSamplePieceBytes, bytes / kSamplePieces);
  std::vector<std::byte> sample(piece * kSamplePieces);
  for (std::size_t i = 0; i < kSamplePieces; ++i) {
    std::size_t at = (bytes - piece) / (kSamplePieces - 1) * i;
    CopyFromParts(parts, at, std::span(sample).subspan(i * piece, piece));
  }
  std::vector<std::byte> out(CompressBound(compression, sample.size()));
  return Shrinks(CompressInto(compression, sample, out), sample.size());
}

}  // namespace

Result<Compression> ParseCompression(const std::string& name) {
  if (name == "none") return Compression::kNone;
  if (name == "lz4") return Compression::kLz4;
  if (name == "zstd") return Compression::kZstd;
  return InvalidArgument("compression '" + name + "' is unknown; allowed are none, lz4, zstd");
}

std::uint16_t CompressionFlag(Compression compression) {
  switch (compression) {
    case Compression::kLz4:
      return kLz4;
    case Compression::kZstd:
      return kZstd;
    case Compression::kNone:
      break;
  }
  return 0;
}

bool TryCompress(Compression compression, std::span<const std::span<const std::byte>> parts,
                 std::vector<std::byte>* out) {
  std::size_t bytes = 0;
  for (std::span<const std::byte> part : parts) bytes += part.size();
  if (compression == Compression::kNone || bytes < kCompressBytesMin ||
      bytes > limits::kFramePayloadBytesMax || !SampleShrinks(compression, parts, bytes)) {
    return false;
  }
  std::vector<std::byte> joined;
  std::span<const std::byte> whole = parts.front();
  if (whole.size() != bytes) {
    joined.resize(bytes);
    CopyFromParts(parts, 0, joined);
    whole = joined;
  }
  out->resize(CompressBound(compression, bytes));
  std::size_t written = CompressInto(compression, whole, *out);
  if (!Shrinks(written, bytes)) return false;
  out->resize(written);
  return true;
}

bool TryCompress(Compression compression, std::span<const std::byte> payload,
                 std::vector<std::byte>* out) {
  return TryCompress(compression, std::span(&payload, 1), out);
}

bool PayingCompressor::TryCompress(Compression compression,
                                   std::span<const std::span<const std::byte>> parts,
                                   std::vector<std::byte>* out) {
  std::size_t bytes = 0;
  for (std::span<const std::byte> part : parts) bytes += part.size();
  if (compression == Compression::kNone || bytes < kCompressBytesMin) return false;
  if (std::uint32_t skip = skip_.load(std::memory_order_relaxed); skip > 0) {
    skip_.store(skip - 1, std::memory_order_relaxed);
    return false;
  }
  bool shrank = wire::TryCompress(compression, parts, out);
  std::uint32_t pause = shrank ? 0 : pause_.load(std::memory_order_relaxed);
  skip_.store(pause, std::memory_order_relaxed);
  pause_.store(shrank ? 0 : std::min(2 * pause + 1, kSkippedMax), std::memory_order_relaxed);
  return shrank;
}

Status Decompress(const FrameHeader& header, std::span<const std::byte> payload,
                  std::span<std::byte> out) {
  if (out.size() != header.raw_bytes) {
    return Internal("decompression into " + std::to_string(out.size()) + " bytes instead of " +
                    std::to_string(header.raw_bytes));
  }
  if (payload.size() > limits::kFramePayloadBytesMax ||
      out.size() > limits::kFramePayloadBytesMax) {
    return DataCorruption("compressed payload beyond the limit of " +
                          std::to_string(limits::kFramePayloadBytesMax) + " bytes");
  }
  bool whole = false;
  if ((header.flags & kLz4) != 0) {
    int made = LZ4_decompress_safe(reinterpret_cast<const char*>(payload.data()),
                                   reinterpret_cast<char*>(out.data()),
                                   static_cast<int>(payload.size()), static_cast<int>(out.size()));
    whole = made >= 0 && static_cast<std::size_t>(made) == out.size();
  } else if ((header.flags & kZstd) != 0) {
    std::size_t made = ZSTD_decompress(out.data(), out.size(), payload.data(), payload.size());
    whole = !ZSTD_isError(made) && made == out.size();
  } else {
    return Internal("the frame is not compressed");
  }
  if (whole) return Status::Ok();
  return DataCorruption("compressed payload of " + std::to_string(payload.size()) +
                        " bytes does not give the " + std::to_string(out.size()) +
                        " bytes announced");
}

}  // namespace ps::wire
