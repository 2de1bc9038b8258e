// Sections of requests and replies, and error replies, from any bytes. The first byte says which.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "ps/wire/messages.h"

namespace {

using namespace ps;

void RequireInside(const void* begin, std::size_t bytes, std::span<const std::byte> payload) {
  const auto* first = static_cast<const std::byte*>(begin);
  bool inside =
      bytes == 0 || (first >= payload.data() && first + bytes <= payload.data() + payload.size());
  if (!inside) std::abort();
}

void TrySections(wire::MessageType type, std::span<const std::byte> payload) {
  auto sections = wire::DecodeSections(type, payload);
  if (!sections.ok()) return;
  std::size_t total = 0;
  for (const wire::SectionView& view : *sections) {
    RequireInside(view.keys.data(), view.keys.size_bytes(), payload);
    RequireInside(view.floats.data(), view.floats.size_bytes(), payload);
    total += wire::kSectionHeadBytes + wire::SectionBodyBytes(type, view.head);
    std::byte head[wire::kSectionHeadBytes];
    wire::EncodeSectionHead(view.head, head);
    wire::SectionHead again = wire::DecodeSectionHead(head);
    if (again.count != view.head.count || again.version != view.head.version) std::abort();
  }
  if (total != payload.size()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t bytes) {
  if (bytes == 0) return 0;
  std::size_t payload_bytes = bytes - 1;
  std::vector<std::uint64_t> aligned((payload_bytes + 7) / 8);
  if (payload_bytes > 0) std::memcpy(aligned.data(), data + 1, payload_bytes);
  std::span<const std::byte> payload = std::as_bytes(std::span(aligned)).first(payload_bytes);
  switch (data[0] % 5) {
    case 0:
      TrySections(wire::MessageType::kPull, payload);
      break;
    case 1:
      TrySections(wire::MessageType::kPullReply, payload);
      break;
    case 2:
      TrySections(wire::MessageType::kPush, payload);
      break;
    case 3:
      TrySections(wire::MessageType::kReplicate, payload);
      break;
    default:
      if (wire::DecodeError(payload).ok()) std::abort();  // an error reply is never "ok"
  }
  return 0;
}
