#pragma once

#include <functional>
#include <string>

#include "ps/server/core.h"

namespace ps::server {

// The server's record of get_cluster_stats (contract section 5) as JSON, each shard's part read by
// its own thread at one moment between two requests. Beyond the contract: parameters (values of the
// dense tensors counted in weights), weights_memory_bytes, connections_open,
// authentication_failures_total, bad_frames_total, stalled_total, requests_in_flight.
//   memory_bytes = sum of the tables' memory_bytes + weights_memory_bytes
//   embeddings = sum of the tables' rows = rows made - rows pruned
//   weights: dense tensors with values whose chunk 0 lies here, so that servers add up.
// kMetrics adds latency_seconds {pull, push, control: {sum, count, bounds [s], counts}}: how many
// took at most each bound.
// `done` is called on a shard's thread.
enum class StatsDetail { kStats, kMetrics };
void CollectStats(Core& core, StatsDetail detail, std::function<void(std::string json)> done);

}  // namespace ps::server
