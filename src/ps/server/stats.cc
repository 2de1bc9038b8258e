#include "ps/server/stats.h"

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "ps/sharding/json_fields.h"

namespace ps::server {
namespace {

using sharding::Json;

struct ShardStats {
  std::vector<store::TableStats> tables;
  std::size_t weights_bytes = 0;
  LatencySnapshot pull;
  LatencySnapshot push;
  LatencySnapshot control;
};

ShardStats ReadShard(Shard& shard) {
  ShardStats stats;
  for (std::size_t i = 0; i < shard.table_count(); ++i) {
    stats.tables.push_back(shard.table(static_cast<TableId>(i)).Stats());
  }
  if (shard.has_weights()) stats.weights_bytes = shard.weights().memory_bytes();
  stats.pull = shard.latency().pull.Snapshot();
  stats.push = shard.latency().push.Snapshot();
  stats.control = shard.latency().control.Snapshot();
  return stats;
}

Json LatencyJson(const LatencySnapshot& latency) {
  return Json{{"count", latency.count},
              {"p50", latency.p50_ms()},
              {"p99", latency.p99_ms()},
              {"p999", latency.p999_ms()},
              {"max", latency.max_ms()}};
}

store::TableStats Sum(const std::vector<ShardStats>& shards, std::size_t table) {
  store::TableStats sum;
  for (const ShardStats& shard : shards) {
    if (table >= shard.tables.size()) continue;
    const store::TableStats& one = shard.tables[table];
    sum.rows += one.rows;
    sum.created_total += one.created_total;
    sum.pruned_total += one.pruned_total;
    sum.values_bytes += one.values_bytes;
    sum.state_bytes += one.state_bytes;
    sum.index_bytes += one.index_bytes;
  }
  return sum;
}

void AddTables(const DefinitionPtr& definition, const std::vector<ShardStats>& shards, Json* json) {
  std::uint64_t rows = 0;
  std::uint64_t bytes = 0;
  Json tables = Json::object();
  std::size_t count = definition == nullptr ? 0 : definition->cluster.tables.size();
  for (std::size_t i = 0; i < count; ++i) {
    const sharding::TableDefinition& table = definition->cluster.tables[i];
    if (table.dropped) continue;
    store::TableStats sum = Sum(shards, i);
    tables[table.name] = Json{
        {"rows", sum.rows},
        {"dim", table.dim},
        {"memory_bytes",
         {{"values", sum.values_bytes}, {"state", sum.state_bytes}, {"index", sum.index_bytes}}},
        {"created_total", sum.created_total},
        {"pruned_total", sum.pruned_total}};
    rows += sum.rows;
    bytes += sum.values_bytes + sum.state_bytes + sum.index_bytes;
  }
  std::uint64_t weights_bytes = 0;
  for (const ShardStats& shard : shards) weights_bytes += shard.weights_bytes;
  (*json)["tables"] = std::move(tables);
  (*json)["embeddings"] = rows;
  (*json)["weights_memory_bytes"] = weights_bytes;
  (*json)["memory_bytes"] = bytes + weights_bytes;
}

void AddWeights(const DefinitionPtr& definition, Json* json) {
  std::uint64_t weights = 0;
  std::uint64_t parameters = 0;
  std::size_t count = definition == nullptr ? 0 : definition->cluster.tensors.size();
  for (std::size_t i = 0; i < count; ++i) {
    TensorId id = static_cast<TensorId>(i);
    if (definition->cluster.tensors[i].dropped) continue;
    if (!definition->Owns(definition->HomeOfChunk(id, 0))) continue;
    if (!definition->presence[i]->Has(0)) continue;
    ++weights;
    parameters += definition->cluster.tensors[i].floats();
  }
  (*json)["weights"] = weights;
  (*json)["parameters"] = parameters;
}

Json HistogramJson(const LatencySnapshot& latency) {
  Json bounds = Json::array();
  for (std::uint64_t ns : CumulativeBoundsNs()) bounds.push_back(static_cast<double>(ns) * 1e-9);
  return Json{{"count", latency.count},
              {"sum", latency.total_ms() * 1e-3},
              {"bounds", std::move(bounds)},
              {"counts", latency.CumulativeCounts()}};
}

void AddLatency(const std::vector<ShardStats>& shards, StatsDetail detail, Json* json) {
  LatencySnapshot pull;
  LatencySnapshot push;
  LatencySnapshot control;
  for (const ShardStats& shard : shards) {
    pull.Merge(shard.pull);
    push.Merge(shard.push);
    control.Merge(shard.control);
  }
  (*json)["latency_ms"] = Json{
      {"pull", LatencyJson(pull)}, {"push", LatencyJson(push)}, {"control", LatencyJson(control)}};
  if (detail == StatsDetail::kStats) return;
  (*json)["latency_seconds"] = Json{{"pull", HistogramJson(pull)},
                                    {"push", HistogramJson(push)},
                                    {"control", HistogramJson(control)}};
}

std::string Render(Core& core, StatsDetail detail, const std::vector<ShardStats>& shards) {
  DefinitionPtr definition = core.definition();
  net::ListenerStats net = core.listener->Stats();
  std::chrono::duration<double> uptime = core.clock->Now() - core.started;
  Json json{
      {"server_id", core.options.server_id},
      {"address", core.options.advertised_host + ":" + std::to_string(core.listener->port())},
      {"uptime_seconds", uptime.count()},
      {"requests_total", core.requests_total.value()},
      {"errors_total", core.errors_total.value()},
      {"refusals_total", core.refusals_total.value()},
      {"requests_in_flight", core.in_flight.requests()},
      {"bytes_received_total", net.bytes_received_total},
      {"bytes_sent_total", net.bytes_sent_total},
      {"connections_open", net.connections_open},
      {"authentication_failures_total", net.authentication_failures_total},
      {"bad_frames_total", net.bad_frames_total},
      {"stalled_total", net.stalled_total},
  };
  AddTables(definition, shards, &json);
  AddWeights(definition, &json);
  AddLatency(shards, detail, &json);
  return sharding::Dump(json);
}

}  // namespace

void CollectStats(Core& core, StatsDetail detail, std::function<void(std::string json)> done) {
  auto shards = std::make_shared<std::vector<ShardStats>>(core.shards.size());
  ForEachShard(
      core, [shards](Shard& shard) { (*shards)[shard.index()] = ReadShard(shard); },
      [&core, detail, shards, done = std::move(done)] { done(Render(core, detail, *shards)); });
}

}  // namespace ps::server
