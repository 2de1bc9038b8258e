#pragma once

#include <cstdint>
#include <vector>

#include "ps/base/hash.h"
#include "ps/base/status.h"
#include "ps/base/types.h"

namespace ps::sharding {

// Which server holds which partition. A value: copied, compared, sent as JSON; made by the
// coordinator alone. Routing a key is a multiply (HashKey), a shift and a look-up.
struct PartitionMap {
  std::uint64_t epoch = 0;  // grows with each change of owners
  int partition_bits = 12;  // log2(owner.size())
  std::uint32_t server_count = 0;
  std::vector<ServerId> owner;  // by partition

  ServerId ServerOf(std::uint64_t table_salt, Key key) const {
    return owner[PartitionOf(HashKey(table_salt, key), partition_bits)];
  }
  // Partitions of one server, ascending.
  std::vector<PartitionId> PartitionsOf(ServerId server) const;

  bool operator==(const PartitionMap&) const = default;
};

// Fills a map from a consistent-hash ring of `virtual_nodes` points per server: a partition goes to
// the first point at or after its own that belongs to a server with fewer than
// ceil(1.05 * partition_count / server_count) partitions. Adding a server moves about 1/N of the
// partitions. partition_count: a power of two up to limits::kPartitionCountMax; server_count >= 1
// and
// <= partition_count. Golden-tested: placement is stable for ever.
Result<PartitionMap> BuildPartitionMap(std::uint32_t server_count, std::uint32_t virtual_nodes,
                                       std::uint32_t partition_count);

// The shard thread, 0..shard_count-1, of each partition of `server` (others: -1). Equal shares: the
// server's partitions are dealt out in turn.
std::vector<int> ShardOfPartition(const PartitionMap& map, ServerId server, int shard_count);

// Splits keys by server: counting sort, stable. After it, keys of server s are
// positions[begin[s]] .. positions[begin[s+1]-1] (indices into `keys`, ascending).
struct KeySplit {
  std::vector<std::uint32_t> positions;
  std::vector<std::uint32_t> begin;  // server_count + 1
};
void SplitByServer(const PartitionMap& map, std::uint64_t table_salt, const Key* keys,
                   std::size_t key_count, KeySplit* split);

// Owner of a chunk of a dense tensor: the tensor's name and chunk number are its key.
ServerId ServerOfChunk(const PartitionMap& map, std::uint64_t tensor_salt, std::uint32_t chunk);
PartitionId PartitionOfChunk(const PartitionMap& map, std::uint64_t tensor_salt,
                             std::uint32_t chunk);

}  // namespace ps::sharding
