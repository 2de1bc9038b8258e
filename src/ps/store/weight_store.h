#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ps/base/random.h"
#include "ps/base/status.h"
#include "ps/base/types.h"
#include "ps/optimizers/optimizer.h"

namespace ps::store {

// Name of one chunk of a dense tensor: floats [chunk * kTensorChunkFloats, ...) of tensor `tensor`.
struct ChunkId {
  TensorId tensor = 0;
  std::uint32_t chunk = 0;

  auto operator<=>(const ChunkId&) const = default;
};

// The chunks of dense tensors that one shard holds, each with its optimizer state and a version
// that grows by one with each change (versions start at 1; 0 means "never seen" in requests).
// Single-threaded: every call comes from the shard's thread.
class WeightStore {
 public:
  // `optimizer` is shared by all dense tensors and outlives the store.
  explicit WeightStore(const optimizers::Optimizer* optimizer) : optimizer_(optimizer) {}

  const optimizers::Optimizer& optimizer() const { return *optimizer_; }

  bool Has(ChunkId id) const;
  // Sets or replaces the values (which lie outside the store); optimizer state starts fresh, the
  // version goes up.
  void Assign(ChunkId id, std::span<const float> values);
  // The same with the optimizer's state, of StateFloats(values.size()) floats (empty: fresh). The
  // version goes up, to `version_min` at least.
  void Restore(ChunkId id, std::span<const float> values, std::span<const float> state,
               std::uint64_t version_min = 0);
  // Raises the versions of chunks to the next epoch (NextEpoch), beyond any that another server may
  // have handed out for them.
  void StartEpoch(const std::function<bool(ChunkId)>& concerns);
  // The upper half of a version is its epoch, which grows when the chunk gets another owner or is
  // loaded: the same new version on every server that has a copy, however far each had come.
  static std::uint64_t NextEpoch(std::uint64_t version) { return ((version >> 32) + 1) << 32; }
  // Values [first, first+floats) of the tensor's initial sequence (see FillInitial), then as
  // Assign.
  void AssignInitial(ChunkId id, const Initializer& initializer, std::uint64_t seed,
                     std::uint64_t stream, std::size_t floats);
  // NotFound when the chunk is not here, InvalidArgument when the size differs.
  Status CheckSize(ChunkId id, std::size_t floats) const;
  // Requires CheckSize(id, grad.size()).ok().
  void Apply(ChunkId id, std::span<const float> grad, float rate_scale);

  struct View {
    std::uint64_t version = 0;
    std::span<const float> values;
    std::span<const float> state;
  };
  // Requires Has(id). Valid until the next call that changes the chunk.
  View Get(ChunkId id) const;

  void Remove(TensorId tensor);
  std::size_t chunk_count() const;
  std::size_t memory_bytes() const;

 private:
  struct Chunk {
    std::uint64_t version = 0;
    std::size_t floats = 0;
    std::vector<float> values_and_state;
  };
  // The chunk with room for `floats` values and their state, both still to be written; the version
  // has gone up.
  Chunk& Renew(ChunkId id, std::size_t floats);
  std::span<float> ValuesOf(Chunk& chunk) const;
  std::span<float> StateOf(Chunk& chunk) const;

  const optimizers::Optimizer* optimizer_;
  std::map<ChunkId, Chunk> chunks_;
};

}  // namespace ps::store
