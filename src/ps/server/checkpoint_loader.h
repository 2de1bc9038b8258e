#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ps/arrow/c_data.h"
#include "ps/base/status.h"
#include "ps/server/core.h"
#include "ps/store/embedding_store.h"

namespace ps::server {

// Builds what a checkpoint holds beside what the server serves, then puts it in its place.
//
//   Create -> Add... (in any order, by any threads) -> CheckComplete -> Commit
//
// Until Commit nothing that is served changes; without it all is dropped with the loader. The
// server takes the rows and chunks that are its own by the partition map, and passes over others.
// The rows of a table lie in stores of their own, so building them never waits for a shard, nor a
// shard for it. Rows count against the server's limit as if nothing else were there.
class CheckpointLoader : public std::enable_shared_from_this<CheckpointLoader> {
 public:
  // A JSON object:
  //   {"states": bool, "rows": bool, "weights": bool,
  //    "tables": [definitions as they will run], "tensors": [{"name","shape"}],
  //    "weight_optimizer": {"name","params"}}   of the states that are loaded with the weights
  // `tables`, `tensors` and `weight_optimizer` are what the cluster's definition will hold when
  // Commit is called.
  static Result<std::shared_ptr<CheckpointLoader>> Create(Core* core, const std::string& plan_json);

  // Each takes over a stream (checkpoint_snapshot.h says of which columns) and returns how many of
  // its rows, chunks or streams were taken. DataCorruption names table and column;
  // ResourceExhausted: more rows than the server may hold. What was added before an error stays.
  Result<std::uint64_t> AddRows(const std::string& table, ArrowArrayStream* stream);
  Result<std::uint64_t> AddWeights(ArrowArrayStream* stream);
  Result<std::uint64_t> AddLedger(ArrowArrayStream* stream);

  // DataCorruption unless every chunk that this server must hold of the plan's tensors is here.
  Status CheckComplete() const;

  // Puts all of it in place of what is served: rows of tables that were not loaded go, too, when
  // rows were loaded at all, and so for tensors. The ledger is replaced when one was added. Each
  // shard switches between two requests. An error changes nothing. Once.
  Status Commit();

 private:
  struct Plan {
    bool states = false;
    bool rows = false;
    bool weights = false;
    std::vector<sharding::TableDefinition> tables;
    std::vector<sharding::TensorDefinition> tensors;
    sharding::OptimizerDefinition weight_optimizer;
  };
  struct Chunk {
    std::uint64_t version;
    std::vector<float> values;
    std::vector<float> state;
  };
  // What one shard will hold.
  struct Staged {
    std::mutex mutex;
    std::shared_ptr<store::PagePool> pool;
    std::vector<std::unique_ptr<store::EmbeddingStore>> tables;     // by place in the plan
    std::map<std::pair<std::size_t, std::uint32_t>, Chunk> chunks;  // (tensor's place, number)
  };
  struct Targets;

  CheckpointLoader(Core* core, DefinitionPtr definition, Plan plan);
  static Result<Plan> ParsePlan(const std::string& json);
  Status MakeStores();
  Result<std::size_t> FindTable(const std::string& name) const;
  static void TouchAhead(Staged* staged);
  Status AddRun(std::size_t table, int shard, const struct RowRun& run);
  Result<bool> AddChunk(std::size_t tensor, std::uint64_t offset, Chunk&& chunk);
  Result<Targets> FindTargets() const;
  Status ReplaceLedgers();
  void Switch(Shard& shard, const Targets& targets);

  Core* const core_;
  const DefinitionPtr definition_;  // when loading began: the partition map
  const Plan plan_;
  store::RowBudget budget_;
  std::shared_ptr<const optimizers::Optimizer> weight_optimizer_;
  std::vector<std::unique_ptr<Staged>> shards_;
  std::mutex ledger_mutex_;
  bool has_ledger_ = false;
  std::vector<PushLedger::Record> ledger_;
};

}  // namespace ps::server
