#include "ps/server/checkpoint_loader.h"

#include <algorithm>
#include <utility>

#include "ps/arrow/rows.h"
#include "ps/base/hash.h"
#include "ps/base/limits.h"
#include "ps/server/countdown.h"
#include "ps/sharding/json_fields.h"
#include "ps/store/page_pool.h"

namespace ps::server {

using arrow::BatchReader;
using sharding::Json;

// Rows of one partition, consecutive in a batch.
struct RowRun {
  const BatchReader& reader;
  const store::RowShape& shape;
  PartitionId partition;
  std::int64_t begin;
  std::int64_t end;
};

// Where the plan's tables and tensors stand in the definition that is served.
struct CheckpointLoader::Targets {
  DefinitionPtr definition;
  std::vector<TableId> tables;    // by place in the plan
  std::vector<TensorId> tensors;  // by place in the plan
};

namespace {

// Of a shard: what a few runs of rows fill while another thread waits for memory.
constexpr std::size_t kPagesTouchedAhead = 4;

std::string TableName(const std::string& name) { return "table '" + name + "'"; }

Status NoRoom(const Core& core, const store::RowBudget& budget) {
  return ResourceExhausted(core.Name() + " would hold more than " +
                           std::to_string(budget.rows_max()) +
                           " rows: raise max_embeddings_per_shard, or load with more servers");
}

}  // namespace

CheckpointLoader::CheckpointLoader(Core* core, DefinitionPtr definition, Plan plan)
    : core_(core),
      definition_(std::move(definition)),
      plan_(std::move(plan)),
      budget_(core->options.rows_max) {}

Result<std::shared_ptr<CheckpointLoader>> CheckpointLoader::Create(Core* core,
                                                                   const std::string& plan_json) {
  DefinitionPtr definition = core->definition();
  if (definition == nullptr) return NotDefined(*core);
  PS_ASSIGN_OR_RETURN(Plan plan, ParsePlan(plan_json));
  std::shared_ptr<CheckpointLoader> loader(
      new CheckpointLoader(core, std::move(definition), std::move(plan)));
  PS_RETURN_IF_ERROR(loader->MakeStores());
  return loader;
}

Result<CheckpointLoader::Plan> CheckpointLoader::ParsePlan(const std::string& json) {
  Plan plan;
  PS_ASSIGN_OR_RETURN(Json object, sharding::ParseObject(json));
  PS_ASSIGN_OR_RETURN(plan.states, sharding::GetBool(object, "states"));
  PS_ASSIGN_OR_RETURN(plan.rows, sharding::GetBool(object, "rows"));
  PS_ASSIGN_OR_RETURN(plan.weights, sharding::GetBool(object, "weights"));
  PS_ASSIGN_OR_RETURN(const Json* tables, sharding::GetArray(object, "tables", limits::kTablesMax));
  for (const Json& one : *tables) {
    PS_ASSIGN_OR_RETURN(auto table, sharding::TableFromJson(sharding::Dump(one)));
    plan.tables.push_back(std::move(table));
  }
  PS_ASSIGN_OR_RETURN(const Json* tensors,
                      sharding::GetArray(object, "tensors", limits::kTensorsMax));
  for (const Json& one : *tensors) {
    PS_ASSIGN_OR_RETURN(auto tensor, sharding::TensorFromJson(sharding::Dump(one)));
    plan.tensors.push_back(std::move(tensor));
  }
  PS_ASSIGN_OR_RETURN(const Json* dense, sharding::GetObject(object, "weight_optimizer"));
  PS_ASSIGN_OR_RETURN(plan.weight_optimizer, sharding::OptimizerFromJson(sharding::Dump(*dense)));
  return plan;
}

Status CheckpointLoader::MakeStores() {
  PS_ASSIGN_OR_RETURN(
      auto optimizer,
      optimizers::Optimizer::Create({plan_.weight_optimizer.name, plan_.weight_optimizer.params}));
  weight_optimizer_ = std::move(optimizer);
  for (std::size_t i = 0; i < core_->shards.size(); ++i) {
    auto staged = std::make_unique<Staged>();
    staged->pool = std::make_shared<store::PagePool>();
    for (const sharding::TableDefinition& table : plan_.tables) {
      PS_ASSIGN_OR_RETURN(auto spec, TableSpecOf(table, definition_->cluster.seed));
      PS_ASSIGN_OR_RETURN(auto store, store::EmbeddingStore::Create(
                                          std::move(spec), definition_->cluster.map.partition_bits,
                                          &budget_, core_->clock, staged->pool));
      staged->tables.push_back(std::move(store));
    }
    shards_.push_back(std::move(staged));
  }
  return Status::Ok();
}

Result<std::size_t> CheckpointLoader::FindTable(const std::string& name) const {
  for (std::size_t i = 0; i < plan_.tables.size(); ++i) {
    if (plan_.tables[i].name == name) return i;
  }
  return NotFound(TableName(name) + " is not one that is being loaded");
}

Result<std::uint64_t> CheckpointLoader::AddRows(const std::string& table,
                                                ArrowArrayStream* stream) {
  auto taken_over = arrow::Owned<ArrowArrayStream>::Take(stream);
  PS_ASSIGN_OR_RETURN(std::size_t place, FindTable(table));
  const auto shape = store::RowShape::Of(*shards_[0]->tables[place], plan_.states);
  PS_ASSIGN_OR_RETURN(BatchReader reader, BatchReader::Open(TableName(table), taken_over.get(),
                                                            arrow::RowsColumns(shape)));
  const std::uint64_t salt = plan_.tables[place].salt();
  const int bits = definition_->cluster.map.partition_bits;
  std::uint64_t taken = 0;
  while (true) {
    PS_ASSIGN_OR_RETURN(bool more, reader.Next());
    if (!more) return taken;
    const Key* keys = reader.Values<Key>(arrow::kRowsKey);
    const auto partition = [&](std::int64_t row) {
      return PartitionOf(HashKey(salt, keys[row]), bits);
    };
    for (std::int64_t begin = 0; begin < reader.rows();) {
      const PartitionId here = partition(begin);
      std::int64_t end = begin + 1;
      while (end < reader.rows() && partition(end) == here) ++end;
      const int shard = definition_->shard_of_partition[here];
      if (shard >= 0) {
        PS_RETURN_IF_ERROR(AddRun(place, shard, {reader, shape, here, begin, end}));
        taken += end - begin;
      }
      begin = end;
    }
  }
}

// The memory for rows to come, found while others put rows into their places.
void CheckpointLoader::TouchAhead(Staged* staged) {
  std::unique_lock lock(staged->mutex);
  while (char* page = staged->pool->TakeUntouched(kPagesTouchedAhead)) {
    lock.unlock();
    store::PagePool::Touch(page);
    lock.lock();
    staged->pool->GiveTouched(page);
  }
}

Status CheckpointLoader::AddRun(std::size_t table, int shard, const RowRun& run) {
  Staged& staged = *shards_[shard];
  TouchAhead(&staged);
  std::lock_guard lock(staged.mutex);
  store::EmbeddingStore& store = *staged.tables[table];
  std::size_t reserved = run.end - run.begin;
  if (!budget_.TryReserve(reserved)) return NoRoom(*core_, budget_);
  store.MakeRoom(run.partition, reserved);
  const BatchReader& reader = run.reader;
  const std::size_t dim = run.shape.dim;
  const auto& parts = run.shape.states;
  std::vector<const float*> states;
  std::size_t state_floats = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    states.push_back(reader.Values<float>(arrow::kRowsFirstState + i));
    state_floats += parts[i].floats;
  }
  std::vector<float> state(state_floats);
  const Key* keys = reader.Values<Key>(arrow::kRowsKey);
  const float* vectors = reader.Values<float>(arrow::kRowsVector);
  for (std::int64_t row = run.begin; row < run.end; ++row) {
    float* to = state.data();
    for (std::size_t i = 0; i < parts.size(); ++i) {
      to = std::copy_n(states[i] + row * parts[i].floats, parts[i].floats, to);
    }
    store.Set(keys[row], {vectors + row * dim, dim}, reader.Values<float>(arrow::kRowsCount)[row],
              reader.Values<UnixDay>(arrow::kRowsLastDay)[row], state, &reserved);
  }
  budget_.Return(reserved);
  if (reserved == 0) return Status::Ok();
  return DataCorruption(TableName(plan_.tables[table].name) + ": " + std::to_string(reserved) +
                        " keys come twice");
}

Result<std::uint64_t> CheckpointLoader::AddWeights(ArrowArrayStream* stream) {
  std::vector<arrow::ColumnSpec> columns = {{"name", {"u", "U"}, ""},
                                            {"offset", {"l"}, ""},
                                            {"values", {"+l", "+L"}, "f"},
                                            {"version", {"L"}, ""}};
  const std::size_t first_state = columns.size();
  if (plan_.states) {
    for (const auto& part : weight_optimizer_->StateParts(1)) {
      columns.push_back({part.name, {"+l", "+L"}, "f"});
    }
  }
  const std::size_t column_count = columns.size();
  PS_ASSIGN_OR_RETURN(BatchReader reader,
                      BatchReader::Open("dense weights", stream, std::move(columns)));
  std::uint64_t taken = 0;
  while (true) {
    PS_ASSIGN_OR_RETURN(bool more, reader.Next());
    if (!more) return taken;
    for (std::int64_t row = 0; row < reader.rows(); ++row) {
      const auto tensor =
          std::find_if(plan_.tensors.begin(), plan_.tensors.end(),
                       [name = reader.Text(0, row)](const auto& one) { return one.name == name; });
      if (tensor == plan_.tensors.end()) continue;
      const auto values = reader.Floats(2, row);
      Chunk chunk{reader.Values<std::uint64_t>(3)[row], {values.begin(), values.end()}, {}};
      for (std::size_t i = first_state; i < column_count; ++i) {
        const auto part = reader.Floats(i, row);
        chunk.state.insert(chunk.state.end(), part.begin(), part.end());
      }
      PS_ASSIGN_OR_RETURN(bool is_mine,
                          AddChunk(tensor - plan_.tensors.begin(),
                                   reader.Values<std::uint64_t>(1)[row], std::move(chunk)));
      if (is_mine) ++taken;
    }
  }
}

// False: another server's.
Result<bool> CheckpointLoader::AddChunk(std::size_t place, std::uint64_t offset, Chunk&& chunk) {
  const sharding::TensorDefinition& tensor = plan_.tensors[place];
  const bool is_in = offset % limits::kTensorChunkFloats == 0 &&
                     offset / limits::kTensorChunkFloats < tensor.chunks();
  const auto number = static_cast<std::uint32_t>(offset / limits::kTensorChunkFloats);
  const std::size_t floats = is_in ? tensor.chunk_floats(number) : 0;
  const std::size_t state = plan_.states ? weight_optimizer_->StateFloats(floats) : 0;
  if (!is_in || chunk.values.size() != floats || chunk.state.size() != state) {
    return DataCorruption("the chunk of dense tensor '" + tensor.name + "' at " +
                          std::to_string(offset) + " has " + std::to_string(chunk.values.size()) +
                          " values and " + std::to_string(chunk.state.size()) +
                          " of optimizer state; " + std::to_string(floats) + " and " +
                          std::to_string(state) + " are needed there");
  }
  const auto partition =
      sharding::PartitionOfChunk(definition_->cluster.map, tensor.salt(), number);
  const int shard = definition_->shard_of_chunk[partition];
  if (shard < 0) return false;
  Staged& staged = *shards_[shard];
  std::lock_guard lock(staged.mutex);
  if (staged.chunks.try_emplace({place, number}, std::move(chunk)).second) return true;
  return DataCorruption("chunk " + std::to_string(number) + " of dense tensor '" + tensor.name +
                        "' comes twice");
}

Result<std::uint64_t> CheckpointLoader::AddLedger(ArrowArrayStream* stream) {
  constexpr std::size_t kBytes = limits::kLedgerWindow / 8;
  PS_ASSIGN_OR_RETURN(BatchReader reader,
                      BatchReader::Open("push ledger", stream,
                                        {{"stream", {"L"}, ""},
                                         {"highest", {"L"}, ""},
                                         {"ended", {"C"}, ""},
                                         {"done", {"w:" + std::to_string(kBytes)}, ""}}));
  std::uint64_t taken = 0;
  std::lock_guard lock(ledger_mutex_);
  has_ledger_ = true;
  while (true) {
    PS_ASSIGN_OR_RETURN(bool more, reader.Next());
    if (!more) return taken;
    for (std::int64_t row = 0; row < reader.rows(); ++row, ++taken) {
      PushLedger::Record& record = ledger_.emplace_back();
      record.stream = reader.Values<std::uint64_t>(0)[row];
      record.highest = reader.Values<std::uint64_t>(1)[row];
      record.ended = reader.Values<std::uint8_t>(2)[row] != 0;
      if (record.ended) continue;
      const std::uint8_t* bits = reader.Values<std::uint8_t>(3) + row * kBytes;
      record.done.resize(limits::kLedgerWindow);
      for (std::size_t i = 0; i < record.done.size(); ++i) {
        record.done[i] = (bits[i / 8] >> (i % 8) & 1) != 0;
      }
    }
  }
}

Status CheckpointLoader::CheckComplete() const {
  if (!plan_.weights) return Status::Ok();
  for (std::size_t place = 0; place < plan_.tensors.size(); ++place) {
    const sharding::TensorDefinition& tensor = plan_.tensors[place];
    for (std::uint32_t number = 0; number < tensor.chunks(); ++number) {
      const auto partition =
          sharding::PartitionOfChunk(definition_->cluster.map, tensor.salt(), number);
      const int shard = definition_->shard_of_chunk[partition];
      if (shard < 0 || shards_[shard]->chunks.contains({place, number})) continue;
      return DataCorruption("chunk " + std::to_string(number) + " of dense tensor '" + tensor.name +
                            "' is missing");
    }
  }
  return Status::Ok();
}

Result<CheckpointLoader::Targets> CheckpointLoader::FindTargets() const {
  Targets targets;
  targets.definition = core_->definition();
  const sharding::ClusterDefinition& cluster = targets.definition->cluster;
  for (const auto& table : plan_.tables) {
    const auto* found = cluster.FindTable(table.name);
    if (found == nullptr || !found->SameAs(table)) {
      return InvalidArgument(TableName(table.name) + " is not defined as it was loaded");
    }
    targets.tables.push_back(found->id);
  }
  for (const auto& tensor : plan_.tensors) {
    const auto* found = cluster.FindTensor(tensor.name);
    if (found == nullptr || found->shape != tensor.shape) {
      return InvalidArgument("dense tensor '" + tensor.name + "' is not defined as it was loaded");
    }
    targets.tensors.push_back(found->id);
  }
  if (plan_.weights && !(cluster.weight_optimizer == plan_.weight_optimizer)) {
    return InvalidArgument("the optimizer of the dense tensors is not the one that was loaded");
  }
  return targets;
}

Status CheckpointLoader::Commit() {
  PS_ASSIGN_OR_RETURN(Targets targets, FindTargets());
  if (has_ledger_) PS_RETURN_IF_ERROR(ReplaceLedgers());
  auto done = std::make_shared<Countdown>(1);
  auto shared = std::make_shared<const Targets>(std::move(targets));
  // Rows go: between a request's count of missing rows and its run none may (row_gate.h).
  core_->gate.EnterPrune([self = shared_from_this(), shared, done] {
    ForEachShard(
        *self->core_, [self, shared](Shard& shard) { self->Switch(shard, *shared); },
        [core = self->core_, done] {
          core->gate.LeavePrune();
          done->Done();
        });
  });
  return done->Wait(*core_);
}

// A checkpoint does not tell whose ledger a record is from: each server then knows all of them, and
// so does each ledger of others' homes.
Status CheckpointLoader::ReplaceLedgers() {
  Status status;
  const sharding::Copies& copies = definition_->cluster.weight_copies;
  for (ServerId home = 0; home < copies.server_count; ++home) {
    if (!copies.Holds(definition_->self, home)) continue;
    Status replaced = core_->LedgerOf(home).Replace(ledger_);
    if (status.ok()) status = replaced;
  }
  return status;
}

void CheckpointLoader::Switch(Shard& shard, const Targets& targets) {
  Staged& staged = *shards_[shard.index()];
  if (plan_.rows) {
    std::vector<bool> is_loaded(shard.table_count());
    for (std::size_t i = 0; i < plan_.tables.size(); ++i) {
      staged.tables[i]->ChargeTo(&core_->budget);
      is_loaded[targets.tables[i]] = true;
      shard.ReplaceTable(targets.tables[i], std::move(staged.tables[i]), staged.pool);
    }
    for (std::size_t i = 0; i < is_loaded.size(); ++i) {
      if (!is_loaded[i]) shard.table(static_cast<TableId>(i)).Clear();
    }
  }
  if (!plan_.weights) return;
  auto weights = std::make_unique<store::WeightStore>(weight_optimizer_.get());
  for (auto& [place, chunk] : staged.chunks) {
    const store::ChunkId id{targets.tensors[place.first], place.second};
    // A client may hold the chunk under its last version, so the new one is another, and the same
    // on every server that has a copy.
    const std::uint64_t last = shard.weights().Has(id) ? shard.weights().Get(id).version : 0;
    const bool has_copies = targets.definition->cluster.weight_copies.copies > 1;
    const std::uint64_t fresh = has_copies ? store::WeightStore::NextEpoch(last) : last + 1;
    weights->Restore(id, chunk.values, chunk.state, std::max(chunk.version, fresh));
    targets.definition->presence[id.tensor]->Mark(id.chunk);
  }
  shard.ReplaceWeights(std::move(weights), weight_optimizer_);
}

}  // namespace ps::server
