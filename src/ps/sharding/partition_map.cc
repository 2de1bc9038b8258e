#include "ps/sharding/partition_map.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <string>

#include "ps/base/limits.h"

namespace ps::sharding {
namespace {

constexpr std::uint32_t kVirtualNodesMax = 10'000;

struct RingPoint {
  std::uint64_t position;
  ServerId server;

  // Equal positions of two servers: the lower id is first, on every machine.
  auto operator<=>(const RingPoint&) const = default;
};

std::vector<RingPoint> MakeRing(std::uint32_t server_count, std::uint32_t virtual_nodes) {
  const std::uint64_t salt = HashBytes("ring point");
  std::vector<RingPoint> ring;
  ring.reserve(std::size_t{server_count} * virtual_nodes);
  for (std::uint32_t server = 0; server < server_count; ++server) {
    for (std::uint32_t replica = 0; replica < virtual_nodes; ++replica) {
      ring.push_back({HashKey(salt, std::uint64_t{server} << 32 | replica), server});
    }
  }
  std::sort(ring.begin(), ring.end());
  return ring;
}

// ceil(1.05 * partition_count / server_count)
std::uint32_t PartitionsPerServerMax(std::uint32_t partition_count, std::uint32_t server_count) {
  std::uint64_t divisor = 100ull * server_count;
  return static_cast<std::uint32_t>((105ull * partition_count + divisor - 1) / divisor);
}

Status CheckArguments(std::uint32_t server_count, std::uint32_t virtual_nodes,
                      std::uint32_t partition_count) {
  if (!std::has_single_bit(partition_count) || partition_count > limits::kPartitionCountMax) {
    return InvalidArgument("partition_count " + std::to_string(partition_count) +
                           " is not a power of two from 1 to " +
                           std::to_string(limits::kPartitionCountMax));
  }
  std::size_t servers_max = std::min<std::size_t>(partition_count, limits::kServersMax);
  if (server_count < 1 || server_count > servers_max) {
    return InvalidArgument("server_count " + std::to_string(server_count) + " is not from 1 to " +
                           std::to_string(servers_max));
  }
  if (virtual_nodes < 1 || virtual_nodes > kVirtualNodesMax) {
    return InvalidArgument("virtual_nodes " + std::to_string(virtual_nodes) + " is not from 1 to " +
                           std::to_string(kVirtualNodesMax));
  }
  return Status::Ok();
}

}  // namespace

Result<PartitionMap> BuildPartitionMap(std::uint32_t server_count, std::uint32_t virtual_nodes,
                                       std::uint32_t partition_count) {
  PS_RETURN_IF_ERROR(CheckArguments(server_count, virtual_nodes, partition_count));
  PartitionMap map;
  map.partition_bits = std::countr_zero(partition_count);
  map.server_count = server_count;
  map.owner.resize(partition_count);

  const std::vector<RingPoint> ring = MakeRing(server_count, virtual_nodes);
  const std::uint32_t held_max = PartitionsPerServerMax(partition_count, server_count);
  const std::uint64_t salt = HashBytes("ring partition");
  std::vector<std::uint32_t> held(server_count);
  for (PartitionId partition = 0; partition < partition_count; ++partition) {
    RingPoint own{HashKey(salt, partition), 0};
    auto point = std::lower_bound(ring.begin(), ring.end(), own);
    while (point == ring.end() || held[point->server] >= held_max) {
      point = point == ring.end() ? ring.begin() : point + 1;
    }
    map.owner[partition] = point->server;
    ++held[point->server];
  }
  return map;
}

std::vector<PartitionId> PartitionMap::PartitionsOf(ServerId server) const {
  std::vector<PartitionId> partitions;
  for (PartitionId partition = 0; partition < owner.size(); ++partition) {
    if (owner[partition] == server) partitions.push_back(partition);
  }
  return partitions;
}

std::vector<int> ShardOfPartition(const PartitionMap& map, ServerId server, int shard_count) {
  std::vector<int> shards(map.owner.size(), -1);
  int next = 0;
  for (PartitionId partition : map.PartitionsOf(server)) {
    shards[partition] = next;
    next = next + 1 == shard_count ? 0 : next + 1;
  }
  return shards;
}

void SplitByServer(const PartitionMap& map, std::uint64_t table_salt, const Key* keys,
                   std::size_t key_count, KeySplit* split) {
  split->positions.resize(key_count);
  split->begin.assign(std::size_t{map.server_count} + 1, 0);
  if (map.server_count == 1) {
    std::iota(split->positions.begin(), split->positions.end(), 0u);
    split->begin[1] = static_cast<std::uint32_t>(key_count);
    return;
  }
  static_assert(limits::kServersMax <= 65'536);
  static thread_local std::vector<std::uint16_t> servers_of_keys;
  servers_of_keys.resize(key_count);
  // Plain pointers, because they do not alias.
  const ServerId* __restrict owner = map.owner.data();
  std::uint16_t* __restrict server_of = servers_of_keys.data();
  std::uint32_t* __restrict count = split->begin.data() + 1;
  for (std::size_t i = 0; i < key_count; ++i) {
    ServerId server = owner[PartitionOf(HashKey(table_salt, keys[i]), map.partition_bits)];
    server_of[i] = static_cast<std::uint16_t>(server);
    ++count[server];
  }
  std::partial_sum(split->begin.begin(), split->begin.end(), split->begin.begin());

  // next[s] moves from the first place of s to its end, which is the first place of s + 1.
  std::uint32_t* __restrict positions = split->positions.data();
  std::uint32_t* __restrict next = split->begin.data();
  for (std::size_t i = 0; i < key_count; ++i) {
    positions[next[server_of[i]]++] = static_cast<std::uint32_t>(i);
  }
  std::copy_backward(split->begin.begin(), split->begin.end() - 1, split->begin.end());
  split->begin[0] = 0;
}

PartitionId PartitionOfChunk(const PartitionMap& map, std::uint64_t tensor_salt,
                             std::uint32_t chunk) {
  return PartitionOf(HashKey(tensor_salt, chunk), map.partition_bits);
}

ServerId ServerOfChunk(const PartitionMap& map, std::uint64_t tensor_salt, std::uint32_t chunk) {
  return map.owner[PartitionOfChunk(map, tensor_salt, chunk)];
}

}  // namespace ps::sharding
