#include "ps/server/change.h"

#include <cstring>

#include "ps/wire/messages.h"

namespace ps::server {

void Change::Put(std::size_t number, store::ChunkId id, const store::WeightStore::View& view) {
  wire::SectionHead head;
  head.kind = wire::SectionKind::kChunkState;
  head.id = id.tensor;
  head.chunk = id.chunk;
  head.count = static_cast<std::uint32_t>(view.values.size() + view.state.size());
  head.version = view.version;
  std::vector<std::byte>& section = chunks[number];
  section.resize(wire::kSectionHeadBytes +
                 wire::SectionBodyBytes(wire::MessageType::kReplicate, head));
  wire::EncodeSectionHead(head, section.data());
  std::byte* body = section.data() + wire::kSectionHeadBytes;
  if (!view.values.empty()) std::memcpy(body, view.values.data(), view.values.size_bytes());
  if (view.state.empty()) return;
  std::memcpy(body + view.values.size_bytes(), view.state.data(), view.state.size_bytes());
}

}  // namespace ps::server
