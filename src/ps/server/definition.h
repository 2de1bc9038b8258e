#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ps/base/status.h"
#include "ps/optimizers/optimizer.h"
#include "ps/sharding/cluster_definition.h"
#include "ps/store/embedding_store.h"

namespace ps::server {

// Which chunks of a dense tensor have values on this server: marked by the shards, read by whoever
// checks a request before anything of it runs. A chunk that has values keeps them. Thread-safe.
class ChunkPresence {
 public:
  explicit ChunkPresence(std::uint32_t chunks)
      : present_(std::make_unique<std::atomic<bool>[]>(chunks)) {}
  bool Has(std::uint32_t chunk) const { return present_[chunk].load(std::memory_order_acquire); }
  void Mark(std::uint32_t chunk) { present_[chunk].store(true, std::memory_order_release); }

 private:
  std::unique_ptr<std::atomic<bool>[]> present_;
};

// A cluster definition as one server serves it. Immutable but for the presence of chunks; a request
// holds the one it began with.
struct ServingDefinition {
  sharding::ClusterDefinition cluster;
  ServerId self = 0;
  std::vector<int> shard_of_partition;  // -1: another server's
  // The same of the chunks of dense tensors, of which others' copies lie here, too.
  std::vector<int> shard_of_chunk;  // by partition
  std::vector<std::uint64_t> table_salts;
  std::vector<std::uint64_t> tensor_salts;
  std::vector<std::shared_ptr<ChunkPresence>> presence;  // by tensor; shared by all versions

  int ShardOfChunk(TensorId tensor, std::uint32_t chunk) const {
    return shard_of_chunk[sharding::PartitionOfChunk(cluster.map, tensor_salts[tensor], chunk)];
  }
  ServerId HomeOfChunk(TensorId tensor, std::uint32_t chunk) const {
    return sharding::ServerOfChunk(cluster.map, tensor_salts[tensor], chunk);
  }
  // Whether this server applies changes to the chunks of a home (sharding/copies.h).
  bool Owns(ServerId home) const { return cluster.weight_copies.OwnerOf(home) == self; }
  // Whether another server gets to know what this one changes there.
  bool PassesOn(ServerId home) const {
    return cluster.weight_copies.NextAfter(self, home).has_value();
  }
};
using DefinitionPtr = std::shared_ptr<const ServingDefinition>;

// Checks that `next` may follow `now` (null: it is the first) on server `server_id`: the same map
// and seed, the same tables and tensors under the same numbers, perhaps dropped, perhaps more of
// them; then makes it ready to serve. InvalidArgument names what differs. (Another dense optimizer
// takes effect with the weights that are loaded with it: checkpoint_loader.h.)
Result<DefinitionPtr> NextDefinition(const DefinitionPtr& now, sharding::ClusterDefinition next,
                                     std::uint32_t server_id, int shard_count);

// A table as its store takes it.
Result<store::TableSpec> TableSpecOf(const sharding::TableDefinition& table, std::uint64_t seed);

}  // namespace ps::server
