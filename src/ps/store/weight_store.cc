#include "ps/store/weight_store.h"

#include <algorithm>
#include <cassert>
#include <limits>

#include "ps/base/limits.h"

namespace ps::store {

bool WeightStore::Has(ChunkId id) const { return chunks_.contains(id); }

void WeightStore::Assign(ChunkId id, std::span<const float> values) {
  Chunk& chunk = Renew(id, values.size());
  std::copy(values.begin(), values.end(), ValuesOf(chunk).begin());
  optimizer_->InitState(values, StateOf(chunk));
}

void WeightStore::Restore(ChunkId id, std::span<const float> values, std::span<const float> state,
                          std::uint64_t version_min) {
  Assign(id, values);
  Chunk& chunk = chunks_.find(id)->second;
  assert(state.empty() || state.size() == StateOf(chunk).size());
  std::copy(state.begin(), state.end(), StateOf(chunk).begin());
  chunk.version = std::max(chunk.version, version_min);
}

void WeightStore::StartEpoch(const std::function<bool(ChunkId)>& concerns) {
  for (auto& [id, chunk] : chunks_) {
    if (concerns(id)) chunk.version = NextEpoch(chunk.version);
  }
}

void WeightStore::AssignInitial(ChunkId id, const Initializer& initializer, std::uint64_t seed,
                                std::uint64_t stream, std::size_t floats) {
  Chunk& chunk = Renew(id, floats);
  std::uint64_t first = std::uint64_t{id.chunk} * limits::kTensorChunkFloats;
  FillInitial(initializer, seed, stream, 0, first, ValuesOf(chunk));
  optimizer_->InitState(ValuesOf(chunk), StateOf(chunk));
}

Status WeightStore::CheckSize(ChunkId id, std::size_t floats) const {
  auto found = chunks_.find(id);
  if (found == chunks_.end()) {
    return NotFound("chunk " + std::to_string(id.chunk) + " of dense tensor " +
                    std::to_string(id.tensor) + " is not on this server");
  }
  if (found->second.floats != floats) {
    return InvalidArgument(
        "chunk " + std::to_string(id.chunk) + " of dense tensor " + std::to_string(id.tensor) +
        " has " + std::to_string(found->second.floats) + " values, not " + std::to_string(floats));
  }
  return Status::Ok();
}

void WeightStore::Apply(ChunkId id, std::span<const float> grad, float rate_scale) {
  assert(CheckSize(id, grad.size()).ok());
  Chunk& chunk = chunks_.find(id)->second;
  float* row = chunk.values_and_state.data();
  const float* grad_of_row = grad.data();
  optimizer_->Apply(&row, &grad_of_row, 1, chunk.floats, rate_scale);
  ++chunk.version;
}

WeightStore::View WeightStore::Get(ChunkId id) const {
  assert(Has(id));
  const Chunk& chunk = chunks_.find(id)->second;
  std::span<const float> all(chunk.values_and_state);
  return {chunk.version, all.first(chunk.floats), all.subspan(chunk.floats)};
}

void WeightStore::Remove(TensorId tensor) {
  chunks_.erase(chunks_.lower_bound({tensor, 0}),
                chunks_.upper_bound({tensor, std::numeric_limits<std::uint32_t>::max()}));
}

std::size_t WeightStore::chunk_count() const { return chunks_.size(); }

std::size_t WeightStore::memory_bytes() const {
  std::size_t bytes = 0;
  for (const auto& [id, chunk] : chunks_) {
    bytes += sizeof(id) + sizeof(chunk) + chunk.values_and_state.capacity() * sizeof(float);
  }
  return bytes;
}

WeightStore::Chunk& WeightStore::Renew(ChunkId id, std::size_t floats) {
  Chunk& chunk = chunks_[id];
  if (chunk.floats != floats || chunk.version == 0) {
    chunk.values_and_state = std::vector<float>(floats + optimizer_->StateFloats(floats));
    chunk.floats = floats;
  }
  ++chunk.version;
  return chunk;
}

std::span<float> WeightStore::ValuesOf(Chunk& chunk) const {
  return std::span(chunk.values_and_state).first(chunk.floats);
}

std::span<float> WeightStore::StateOf(Chunk& chunk) const {
  return std::span(chunk.values_and_state).subspan(chunk.floats);
}

}  // namespace ps::store
