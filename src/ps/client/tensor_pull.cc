#include "ps/client/tensor_pull.h"

#include <algorithm>
#include <cstring>

#include "ps/base/limits.h"

namespace ps::client {

PendingTensor::PendingTensor(const sharding::TensorDefinition& definition, const TensorPull& pull,
                             const TensorCache& cache)
    : definition_(&definition),
      pull_(pull),
      known_(cache.Get(definition.id)),
      fresh_(std::make_shared<TensorValue>()),
      versions_(definition.chunks()),
      is_changed_(new bool[definition.chunks()]()) {
  fresh_->floats = definition.floats();
  fresh_->values = std::make_unique_for_overwrite<float[]>(fresh_->floats);
  if (known_ != nullptr && known_->floats != fresh_->floats) known_ = nullptr;
}

Section PendingTensor::ChunkSection(std::uint32_t chunk) {
  Section section;
  section.head.kind = wire::SectionKind::kChunk;
  section.head.id = definition_->id;
  section.head.count = static_cast<std::uint32_t>(definition_->chunk_floats(chunk));
  section.head.chunk = chunk;
  section.head.flags = pull_.if_present ? wire::kIfPresent : 0;
  section.head.version = known_ == nullptr ? 0 : known_->versions[chunk];
  section.out = fresh_->values.get() + chunk * limits::kTensorChunkFloats;
  section.version = &versions_[chunk];
  section.is_changed = &is_changed_[chunk];
  return section;
}

Status PendingTensor::Finish(TensorCache* cache) {
  if (std::ranges::find(versions_, 0u) != versions_.end()) {
    if (pull_.value != nullptr) pull_.value->reset();
    return Status::Ok();
  }
  std::shared_ptr<const TensorValue> value = known_;
  bool any_changed = std::any_of(is_changed_.get(), is_changed_.get() + chunk_count(),
                                 [](bool changed) { return changed; });
  if (any_changed || known_ == nullptr) {
    for (std::uint32_t chunk = 0; chunk < chunk_count(); ++chunk) {
      std::size_t floats = definition_->chunk_floats(chunk);
      if (is_changed_[chunk] || floats == 0) continue;
      if (known_ == nullptr) {
        return DataCorruption("a server has not sent chunk " + std::to_string(chunk) +
                              " of dense weight '" + definition_->name + "'");
      }
      std::size_t at = chunk * limits::kTensorChunkFloats;
      std::memcpy(fresh_->values.get() + at, known_->values.get() + at, floats * sizeof(float));
    }
    fresh_->versions = versions_;
    value = fresh_;
    cache->Put(definition_->id, value);
  }
  if (pull_.out != nullptr && value->floats > 0) {
    std::memcpy(pull_.out, value->values.get(), value->floats * sizeof(float));
  }
  if (pull_.value != nullptr) *pull_.value = std::move(value);
  return Status::Ok();
}

}  // namespace ps::client
