#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "ps/base/status.h"
#include "ps/store/weight_store.h"

namespace ps::server {

// What one request has made of chunks of one home: what the next server of the chain gets of it,
// with the request's number for its ledger (stream 0: none).
struct Change {
  using Done = std::function<void(const Status&)>;

  Change(ServerId the_home, std::uint64_t the_stream, std::uint64_t the_sequence,
         std::size_t chunk_count)
      : home(the_home), stream(the_stream), sequence(the_sequence), chunks(chunk_count) {}

  // The chunk as it is now, in place `number` of the message. On the chunk's shard; several shards
  // write into different places.
  void Put(std::size_t number, store::ChunkId id, const store::WeightStore::View& view);

  const ServerId home;
  const std::uint64_t stream;
  const std::uint64_t sequence;
  std::vector<std::vector<std::byte>> chunks;  // a section each (kChunkState)

  // --- the replicator's
  Done done;
  bool is_complete = false;
  std::uint64_t request_id = 0;  // on its way; the sending thread's
};
using ChangePtr = std::shared_ptr<Change>;

}  // namespace ps::server
