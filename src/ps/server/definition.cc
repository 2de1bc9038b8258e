#include "ps/server/definition.h"

#include <algorithm>
#include <utility>

namespace ps::server {
namespace {

using sharding::ClusterDefinition;

Status Differs(const std::string& what) {
  return InvalidArgument("the new cluster definition does not go on from the old one: " + what);
}

Status CheckFollows(const ClusterDefinition& now, const ClusterDefinition& next) {
  if (next.seed != now.seed) return Differs("another seed");
  if (!(next.map == now.map)) return Differs("another partition map");
  if (next.weight_copies.copies != now.weight_copies.copies) {
    return Differs("another number of copies of dense tensors");
  }
  if (!std::ranges::includes(next.weight_copies.lost, now.weight_copies.lost)) {
    return Differs("a lost server is back");
  }
  if (next.tables.size() < now.tables.size()) return Differs("fewer tables");
  for (std::size_t i = 0; i < now.tables.size(); ++i) {
    sharding::TableDefinition table = now.tables[i];
    table.dropped = table.dropped || next.tables[i].dropped;
    if (!next.tables[i].SameAs(table)) {
      return Differs("table " + std::to_string(i) + " was '" + now.tables[i].name + "'" +
                     (next.tables[i].name == now.tables[i].name ? " with other fields" : ""));
    }
  }
  if (next.tensors.size() < now.tensors.size()) return Differs("fewer dense tensors");
  for (std::size_t i = 0; i < now.tensors.size(); ++i) {
    if (next.tensors[i].name != now.tensors[i].name ||
        next.tensors[i].shape != now.tensors[i].shape ||
        next.tensors[i].dropped < now.tensors[i].dropped) {
      return Differs("dense tensor " + std::to_string(i) + " was '" + now.tensors[i].name + "'");
    }
  }
  return Status::Ok();
}

// Own partitions as their rows; those of other homes are dealt out in turn.
std::vector<int> ShardOfChunk(const ServingDefinition& serving, int shard_count) {
  std::vector<int> shards = serving.shard_of_partition;
  const ClusterDefinition& cluster = serving.cluster;
  int next = 0;
  for (PartitionId partition = 0; partition < shards.size(); ++partition) {
    if (shards[partition] >= 0) continue;
    if (!cluster.weight_copies.Holds(serving.self, cluster.map.owner[partition])) continue;
    shards[partition] = next;
    next = next + 1 == shard_count ? 0 : next + 1;
  }
  return shards;
}

}  // namespace

Result<DefinitionPtr> NextDefinition(const DefinitionPtr& now, ClusterDefinition next,
                                     std::uint32_t server_id, int shard_count) {
  if (server_id >= next.map.server_count) {
    return InvalidArgument("the cluster definition has " + std::to_string(next.map.server_count) +
                           " servers, none with id " + std::to_string(server_id));
  }
  if (now != nullptr) PS_RETURN_IF_ERROR(CheckFollows(now->cluster, next));

  auto serving = std::make_shared<ServingDefinition>();
  serving->self = server_id;
  serving->shard_of_partition = now != nullptr
                                    ? now->shard_of_partition
                                    : sharding::ShardOfPartition(next.map, server_id, shard_count);
  for (const sharding::TableDefinition& table : next.tables) {
    serving->table_salts.push_back(table.salt());
  }
  if (now != nullptr) serving->presence = now->presence;
  for (const sharding::TensorDefinition& tensor : next.tensors) {
    serving->tensor_salts.push_back(tensor.salt());
    if (tensor.id >= serving->presence.size()) {
      serving->presence.push_back(std::make_shared<ChunkPresence>(tensor.chunks()));
    }
  }
  serving->cluster = std::move(next);
  serving->shard_of_chunk =
      now != nullptr ? now->shard_of_chunk : ShardOfChunk(*serving, shard_count);
  return DefinitionPtr(std::move(serving));
}

Result<store::TableSpec> TableSpecOf(const sharding::TableDefinition& table, std::uint64_t seed) {
  store::TableSpec spec;
  spec.name = table.name;
  spec.dim = table.dim;
  spec.optimizer = {table.optimizer.name, table.optimizer.params};
  PS_ASSIGN_OR_RETURN(spec.initializer.kind, ParseInitKind(table.init));
  spec.initializer.scale = static_cast<float>(table.init_scale);
  spec.seed = seed;
  return spec;
}

}  // namespace ps::server
