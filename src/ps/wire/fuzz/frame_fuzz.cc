// Frame headers, payload checksums and decompression from any bytes. The input's header is also
// tried with magic, version and checksum made right, so that the checks behind those are reached.
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ps/wire/codec.h"
#include "ps/wire/frame.h"

namespace {

using namespace ps;
using Header = std::array<std::byte, wire::kFrameHeaderBytes>;

constexpr std::size_t kPayloadBytesMax = 1 << 20;

Header Mended(Header header) {
  std::uint32_t magic = wire::kFrameMagic;
  std::memcpy(header.data(), &magic, sizeof(magic));
  header[4] = std::byte{wire::kWireVersion};
  // The header's checksum is of the same kind as a payload's.
  std::uint32_t checksum = wire::PayloadChecksum(std::span(header).first(44));
  std::memcpy(header.data() + 44, &checksum, sizeof(checksum));
  return header;
}

void Require(bool condition) {
  if (!condition) std::abort();
}

void TryPayload(wire::FrameHeader header, std::span<const std::byte> payload) {
  (void)wire::CheckPayload(header, payload);
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  header.payload_checksum = wire::PayloadChecksum(payload);
  Require(wire::CheckPayload(header, payload).ok());
  if ((header.flags & (wire::kLz4 | wire::kZstd)) == 0) return;
  std::vector<std::byte> raw(header.raw_bytes);
  (void)wire::Decompress(header, payload, raw);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  Header header{};
  if (bytes < header.size()) return 0;
  std::memcpy(header.data(), data, header.size());
  (void)wire::DecodeHeader(header, kPayloadBytesMax);

  Header mended = Mended(header);
  auto decoded = wire::DecodeHeader(mended, kPayloadBytesMax);
  if (!decoded.ok()) return 0;
  Require(wire::IsKnown(decoded->type));
  Require(decoded->payload_bytes <= kPayloadBytesMax && decoded->raw_bytes <= kPayloadBytesMax);
  Header again{};
  wire::EncodeHeader(*decoded, again);
  Require(again == mended);
  TryPayload(*decoded, std::as_bytes(std::span(data, bytes)).subspan(header.size()));
  return 0;
}
