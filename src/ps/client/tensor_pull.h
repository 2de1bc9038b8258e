#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ps/client/client.h"
#include "ps/client/request.h"
#include "ps/client/tensor_cache.h"
#include "ps/sharding/cluster_definition.h"

namespace ps::client {

// A pull of one dense tensor: asks for every chunk under the version that the cache has, and puts
// the new value together from what came and what has not changed. Lives as long as the call.
class PendingTensor {
 public:
  PendingTensor(const sharding::TensorDefinition& definition, const TensorPull& pull,
                const TensorCache& cache);
  PendingTensor(PendingTensor&&) = default;

  std::uint32_t chunk_count() const { return static_cast<std::uint32_t>(versions_.size()); }
  // The section that asks for a chunk; points into this object.
  Section ChunkSection(std::uint32_t chunk);
  // When all chunks have been answered: the caller gets the value, and the cache keeps it.
  Status Finish(TensorCache* cache);

 private:
  const sharding::TensorDefinition* definition_;
  TensorPull pull_;
  std::shared_ptr<const TensorValue> known_;
  std::shared_ptr<TensorValue> fresh_;
  std::vector<std::uint64_t> versions_;
  std::unique_ptr<bool[]> is_changed_;
};

}  // namespace ps::client
