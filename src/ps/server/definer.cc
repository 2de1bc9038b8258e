#include "ps/server/definer.h"

#include <utility>

#include "ps/server/replicator.h"
#include "ps/sharding/json_fields.h"

namespace ps::server {
namespace {

void LogTables(Log& log, const sharding::ClusterDefinition& cluster, std::size_t first) {
  for (std::size_t i = first; i < cluster.tables.size(); ++i) {
    const sharding::TableDefinition& table = cluster.tables[i];
    log.Write(LogLevel::kInfo, "table_made",
              {{"table", table.name},
               {"dim", std::to_string(table.dim)},
               {"optimizer", table.optimizer.name}});
  }
}

}  // namespace

void Definer::Define(std::string definition_json, Peers peers, Done done) {
  core_->shards[0]->Post([this, json = std::move(definition_json), peers = std::move(peers),
                          done = std::move(done)]() mutable {
    waiting_.push_back({std::move(json), std::move(peers), std::move(done)});
    if (!busy_) Begin();
  });
}

void Definer::Begin() {
  busy_ = true;
  std::shared_ptr<Staging> staging;
  Status status = Prepare(waiting_.front().json, &staging);
  if (!status.ok() || staging == nullptr) {
    End(status);
    return;
  }
  ForEachShard(
      *core_,
      [this, staging](Shard& shard) {
        staging->statuses[shard.index()] =
            MakeTables(shard, *staging, &staging->tables[shard.index()]);
      },
      [this, staging] { core_->shards[0]->Post([this, staging] { Made(staging); }); });
}

// `staging` stays null when there is nothing to do.
Status Definer::Prepare(const std::string& json, std::shared_ptr<Staging>* staging) {
  PS_ASSIGN_OR_RETURN(auto parsed, sharding::ClusterDefinition::FromJson(json));
  DefinitionPtr now = core_->definition();
  if (now != nullptr && parsed.version <= now->cluster.version) {
    if (parsed.version < now->cluster.version || parsed.ToJson() == now->cluster.ToJson()) {
      const Peers& peers = waiting_.front().peers;
      if (parsed.version == now->cluster.version && !peers.empty()) {
        core_->replicator->LearnPeers(peers);
      }
      return Status::Ok();
    }
    return InvalidArgument("version " + std::to_string(parsed.version) +
                           " of the cluster definition is here already with another content");
  }
  auto made = std::make_shared<Staging>();
  made->peers = waiting_.front().peers;
  PS_ASSIGN_OR_RETURN(made->next, NextDefinition(now, std::move(parsed), core_->options.server_id,
                                                 static_cast<int>(core_->shards.size())));
  if (now == nullptr) {
    const sharding::OptimizerDefinition& dense = made->next->cluster.weight_optimizer;
    PS_ASSIGN_OR_RETURN(made->weight_optimizer,
                        optimizers::Optimizer::Create({dense.name, dense.params}));
  }
  made->first_table = now == nullptr ? 0 : now->cluster.tables.size();
  made->tables.resize(core_->shards.size());
  made->statuses.resize(core_->shards.size());
  *staging = std::move(made);
  return Status::Ok();
}

Status Definer::MakeTables(Shard& shard, const Staging& staging, Tables* tables) const {
  const sharding::ClusterDefinition& cluster = staging.next->cluster;
  for (std::size_t i = staging.first_table; i < cluster.tables.size(); ++i) {
    PS_ASSIGN_OR_RETURN(store::TableSpec spec, TableSpecOf(cluster.tables[i], cluster.seed));
    PS_ASSIGN_OR_RETURN(
        auto table, store::EmbeddingStore::Create(std::move(spec), cluster.map.partition_bits,
                                                  &core_->budget, core_->clock, shard.page_pool()));
    tables->push_back(std::move(table));
  }
  return Status::Ok();
}

void Definer::Made(const std::shared_ptr<Staging>& staging) {
  Status status;
  for (const Status& of_shard : staging->statuses) {
    if (status.ok()) status = of_shard;
  }
  if (status.ok() && staging->weight_optimizer != nullptr) {
    weight_optimizer_ = std::move(staging->weight_optimizer);
  }
  auto adopt_or_drop = [this, staging, adopt = status.ok()](Shard& shard) {
    Tables tables = std::move(staging->tables[shard.index()]);
    if (!adopt) return;
    if (!shard.has_weights()) shard.SetWeightOptimizer(weight_optimizer_.get());
    for (auto& table : tables) shard.AddTable(std::move(table));
  };
  ForEachShard(*core_, adopt_or_drop, [this, staging, status] {
    if (status.ok()) {
      core_->replicator->Publish(staging->next, staging->peers);
      LogTables(core_->log, staging->next->cluster, staging->first_table);
    }
    core_->shards[0]->Post([this, status] { End(status); });
  });
}

void Definer::End(const Status& status) {
  Done done = std::move(waiting_.front().done);
  waiting_.pop_front();
  busy_ = false;
  done(status);
  if (!waiting_.empty() && !busy_) Begin();
}

}  // namespace ps::server
