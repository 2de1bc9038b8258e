#include "ps/server/checkpoint_snapshot.h"

#include <algorithm>
#include <asio/steady_timer.hpp>
#include <deque>
#include <utility>

#include "ps/arrow/rows.h"
#include "ps/base/limits.h"
#include "ps/server/countdown.h"
#include "ps/store/snapshot.h"

namespace ps::server {
namespace {

using arrow::Array;
using arrow::Batch;
using arrow::Field;
using store::RowBlock;

// Rows of a stripe, about; the unit in which shards are asked.
constexpr std::size_t kStripeBytes = 8u << 20;
constexpr std::size_t kStripesAhead = 4;
constexpr std::size_t kStripePartitionsFirst = 8;
// Smaller blocks are joined into one batch.
constexpr std::size_t kBatchBytesMin = 512u << 10;
constexpr std::size_t kChunksPerBatch = 16;
constexpr std::size_t kStreamsPerBatch = 65'536;

std::string Names(const sharding::ClusterDefinition& cluster) {
  std::string names;
  for (const auto& table : cluster.tables)
    names += (names.empty() ? "'" : ", '") + table.name + "'";
  return names;
}

// Consecutive partitions of one table on their way through the shards.
struct Stripe {
  explicit Stripe(std::size_t shards) : mine(shards), done(shards) {}

  std::vector<std::vector<PartitionId>> mine;  // by shard, ascending
  // By partition number minus the stripe's first; each written by its shard.
  PartitionId first = 0;
  std::vector<std::unique_ptr<RowBlock>> blocks;
  Countdown done;
};
using StripePtr = std::shared_ptr<Stripe>;

// What copying one table needs; shared by the tasks under way, so that they may outlive the stream.
struct TableCopy : std::enable_shared_from_this<TableCopy> {
  Core* core;
  Snapshots* snapshots;
  TableId table;
  store::RowShape shape;
  const std::shared_ptr<store::BlockPool> pool =
      std::make_shared<store::BlockPool>(kStripesAhead * kStripeBytes);

  void Post(const StripePtr& stripe, Shard& shard, std::size_t at) {
    shard.Post([self = shared_from_this(), stripe, &shard, at] { self->Step(stripe, shard, at); });
  }

  // Copies this shard's partitions from number `at` on, then posts the rest behind what has
  // arrived.
  void Step(const StripePtr& stripe, Shard& shard, std::size_t at) {
    const std::vector<PartitionId>& mine = stripe->mine[shard.index()];
    if (mine.empty()) return stripe->done.Done();
    Snapshots::Pace& pace = snapshots->pace(shard);
    const SteadyTime begin = SteadyTime::clock::now();
    if (begin < pace.not_before) return Later(stripe, shard, at, pace.not_before);
    SteadyTime now = begin;
    for (; at < mine.size() && now - begin < Snapshots::kStep; now = SteadyTime::clock::now()) {
      stripe->blocks[mine[at] - stripe->first] =
          store::CopyPartition(shard.table(table), mine[at], shape, pool);
      ++at;
    }
    const std::uint64_t requests = core->requests_total.value();
    const bool is_busy = requests != std::exchange(pace.requests_seen, requests);
    if (is_busy) pace.not_before = now + (now - begin) * (Snapshots::kBusyShare - 1);
    if (at < mine.size()) return Post(stripe, shard, at);
    stripe->done.Done();
  }

  void Later(const StripePtr& stripe, Shard& shard, std::size_t at, SteadyTime when) {
    auto timer = std::make_shared<asio::steady_timer>(shard.context(), when);
    timer->async_wait([self = shared_from_this(), stripe, &shard, at, timer](asio::error_code) {
      self->Post(stripe, shard, at);
    });
  }
};

class RowsSource final : public arrow::BatchSource {
 public:
  RowsSource(std::shared_ptr<TableCopy> copy, DefinitionPtr definition, PartitionId first,
             PartitionId last)
      : copy_(std::move(copy)), definition_(std::move(definition)), next_(first), last_(last) {}

  Field Schema() const override { return arrow::RowsSchema(copy_->shape); }

  Result<std::optional<Batch>> Next() override {
    while (ready_.empty()) {
      while (next_ < last_ && stripes_.size() < kStripesAhead) Begin();
      if (stripes_.empty()) return std::optional<Batch>();
      StripePtr stripe = std::move(stripes_.front());
      stripes_.pop_front();
      PS_RETURN_IF_ERROR(stripe->done.Wait(*copy_->core));
      Collect(*stripe);
    }
    Batch batch = arrow::RowsBatch(std::move(ready_.front()));
    ready_.pop_front();
    return std::optional<Batch>(std::move(batch));
  }

 private:
  void Begin() {
    Core& core = *copy_->core;
    auto stripe = std::make_shared<Stripe>(core.shards.size());
    stripe->first = next_;
    const PartitionId end = next_ + std::min<std::size_t>(width_, last_ - next_);
    for (; next_ < end; ++next_) {
      const int shard = definition_->shard_of_partition[next_];
      if (shard >= 0) stripe->mine[shard].push_back(next_);
    }
    stripe->blocks.resize(end - stripe->first);
    for (auto& shard : core.shards) copy_->Post(stripe, *shard, 0);
    stripes_.push_back(std::move(stripe));
  }

  // Batches of the stripe, by partition; and how many partitions the next one should have.
  void Collect(Stripe& stripe) {
    std::vector<std::unique_ptr<RowBlock>> small;
    std::size_t small_bytes = 0;
    std::size_t bytes = 0;
    const auto flush = [&] {
      if (small.size() == 1) ready_.push_back(std::move(small.front()));
      if (small.size() > 1) ready_.push_back(store::Concatenate(copy_->shape, small, copy_->pool));
      small.clear();
      small_bytes = 0;
    };
    for (std::unique_ptr<RowBlock>& block : stripe.blocks) {
      if (block == nullptr || block->rows() == 0) continue;
      bytes += block->bytes();
      small_bytes += block->bytes();
      small.push_back(std::move(block));
      if (small_bytes >= kBatchBytesMin) flush();
    }
    flush();
    const std::size_t width = stripe.blocks.size();
    const std::size_t wanted = width * kStripeBytes / std::max<std::size_t>(bytes, 1);
    width_ = std::clamp<std::size_t>(wanted, 1, 8 * width);
  }

  const std::shared_ptr<TableCopy> copy_;
  const DefinitionPtr definition_;
  PartitionId next_;
  const PartitionId last_;
  std::size_t width_ = kStripePartitionsFirst;  // partitions of a stripe
  std::deque<StripePtr> stripes_;               // under way
  std::deque<std::shared_ptr<const RowBlock>> ready_;
};

// Columns of strings and of lists, being filled.
struct Strings {
  std::vector<std::int32_t> offsets{0};
  std::string bytes;
  void Add(const std::string& text) {
    bytes += text;
    offsets.push_back(static_cast<std::int32_t>(bytes.size()));
  }
  Array View() const {
    return {
        static_cast<std::int64_t>(offsets.size()) - 1, {nullptr, offsets.data(), bytes.data()}, {}};
  }
};
template <typename T>
struct Lists {
  std::vector<std::int32_t> offsets{0};
  std::vector<T> values;
  template <typename List>
  void Add(const List& list) {
    values.insert(values.end(), list.begin(), list.end());
    offsets.push_back(static_cast<std::int32_t>(values.size()));
  }
  Array View() const {
    Array array{static_cast<std::int64_t>(offsets.size()) - 1, {nullptr, offsets.data()}, {}};
    array.children.push_back(
        {static_cast<std::int64_t>(values.size()), {nullptr, values.data()}, {}});
    return array;
  }
};
template <typename T>
Array Numbers(const std::vector<T>& values) {
  return {static_cast<std::int64_t>(values.size()), {nullptr, values.data()}, {}};
}

struct ChunkCopy {
  store::ChunkId id;
  std::uint64_t version = 0;  // 0: no values
  std::vector<float> values_and_state;
};

struct WeightColumns {
  Strings names;
  Lists<std::int64_t> shapes;
  std::vector<std::int64_t> offsets;
  Lists<float> values;
  std::vector<std::uint64_t> versions;
  std::vector<Lists<float>> states;
};

class WeightsSource final : public arrow::BatchSource {
 public:
  // `optimizer`: whose states are wanted; null: none.
  WeightsSource(Core* core, DefinitionPtr definition,
                std::unique_ptr<optimizers::Optimizer> optimizer)
      : core_(core), definition_(std::move(definition)), optimizer_(std::move(optimizer)) {
    for (const auto& tensor : definition_->cluster.tensors) {
      if (tensor.dropped) continue;
      for (std::uint32_t chunk = 0; chunk < tensor.chunks(); ++chunk) {
        if (!definition_->Owns(definition_->HomeOfChunk(tensor.id, chunk))) continue;
        if (definition_->presence[tensor.id]->Has(chunk)) chunks_.push_back({tensor.id, chunk});
      }
    }
  }

  Field Schema() const override {
    const auto list = [](const std::string& name) {
      return Field{name, "+l", {{"item", "f", {}}}};
    };
    Field record{"", "+s", {}};
    record.children = {{"name", "u", {}},
                       {"shape", "+l", {{"item", "l", {}}}},
                       {"offset", "l", {}},
                       list("values"),
                       {"version", "L", {}}};
    for (const auto& part : StateParts(1)) record.children.push_back(list(part.name));
    return record;
  }

  Result<std::optional<Batch>> Next() override {
    if (next_ == chunks_.size()) return std::optional<Batch>();
    const std::size_t end = std::min(next_ + kChunksPerBatch, chunks_.size());
    auto copies = std::make_shared<std::vector<ChunkCopy>>(end - next_);
    for (ChunkCopy& copy : *copies) copy.id = chunks_[next_++];
    auto done = std::make_shared<Countdown>(1);
    ForEachShard(
        *core_,
        [copies, definition = definition_](Shard& shard) {
          for (ChunkCopy& copy : *copies) {
            if (definition->ShardOfChunk(copy.id.tensor, copy.id.chunk) != shard.index()) continue;
            if (shard.weights().Has(copy.id)) Copy(shard.weights().Get(copy.id), &copy);
          }
        },
        [done] { done->Done(); });
    PS_RETURN_IF_ERROR(done->Wait(*core_));
    return std::optional<Batch>(ToBatch(*copies));
  }

 private:
  static void Copy(const store::WeightStore::View& view, ChunkCopy* copy) {
    copy->version = view.version;
    copy->values_and_state.assign(view.values.begin(), view.values.end());
    copy->values_and_state.insert(copy->values_and_state.end(), view.state.begin(),
                                  view.state.end());
  }

  std::vector<optimizers::Optimizer::StatePart> StateParts(std::size_t floats) const {
    if (optimizer_ == nullptr) return {};
    return optimizer_->StateParts(floats);
  }

  Batch ToBatch(const std::vector<ChunkCopy>& copies) const {
    auto columns = std::make_shared<WeightColumns>();
    columns->states.resize(StateParts(1).size());
    for (const ChunkCopy& copy : copies) {
      if (copy.version == 0) continue;
      const auto& tensor = definition_->cluster.tensors[copy.id.tensor];
      const std::size_t floats = tensor.chunk_floats(copy.id.chunk);
      std::span<const float> rest(copy.values_and_state);
      columns->names.Add(tensor.name);
      columns->shapes.Add(tensor.shape);
      columns->offsets.push_back(std::int64_t{copy.id.chunk} * limits::kTensorChunkFloats);
      columns->values.Add(rest.first(floats));
      columns->versions.push_back(copy.version);
      rest = rest.subspan(floats);
      Lists<float>* state = columns->states.data();
      for (const auto& part : StateParts(floats)) {
        (state++)->Add(rest.first(part.floats));
        rest = rest.subspan(part.floats);
      }
    }
    Array array{static_cast<std::int64_t>(columns->versions.size()), {nullptr}, {}};
    array.children = {columns->names.View(), columns->shapes.View(), Numbers(columns->offsets),
                      columns->values.View(), Numbers(columns->versions)};
    for (const Lists<float>& state : columns->states) array.children.push_back(state.View());
    return {std::move(array), columns};
  }

  Core* const core_;
  const DefinitionPtr definition_;
  const std::unique_ptr<optimizers::Optimizer> optimizer_;
  std::vector<store::ChunkId> chunks_;
  std::size_t next_ = 0;
};

struct LedgerColumns {
  std::vector<std::uint64_t> streams;
  std::vector<std::uint64_t> highest;
  std::vector<std::uint8_t> ended;
  std::vector<std::uint8_t> done;
};

class LedgerSource final : public arrow::BatchSource {
 public:
  explicit LedgerSource(std::vector<PushLedger::Record> records) : records_(std::move(records)) {}

  Field Schema() const override {
    return {"",
            "+s",
            {{"stream", "L", {}},
             {"highest", "L", {}},
             {"ended", "C", {}},
             {"done", "w:" + std::to_string(limits::kLedgerWindow / 8), {}}}};
  }

  Result<std::optional<Batch>> Next() override {
    if (next_ == records_.size()) return std::optional<Batch>();
    auto columns = std::make_shared<LedgerColumns>();
    const std::size_t end = std::min(next_ + kStreamsPerBatch, records_.size());
    columns->done.resize((end - next_) * kBitmapBytes);
    std::uint8_t* bits = columns->done.data();
    for (; next_ < end; ++next_, bits += kBitmapBytes) {
      const PushLedger::Record& record = records_[next_];
      columns->streams.push_back(record.stream);
      columns->highest.push_back(record.highest);
      columns->ended.push_back(record.ended ? 1 : 0);
      for (std::size_t i = 0; i < record.done.size(); ++i) {
        bits[i / 8] |= static_cast<std::uint8_t>(record.done[i] << (i % 8));
      }
    }
    Array array{static_cast<std::int64_t>(columns->streams.size()), {nullptr}, {}};
    array.children = {Numbers(columns->streams), Numbers(columns->highest),
                      Numbers(columns->ended)};
    array.children.push_back({array.length, {nullptr, columns->done.data()}, {}});
    return std::optional<Batch>(Batch{std::move(array), columns});
  }

 private:
  static constexpr std::size_t kBitmapBytes = limits::kLedgerWindow / 8;

  const std::vector<PushLedger::Record> records_;
  std::size_t next_ = 0;
};

}  // namespace

Result<std::unique_ptr<arrow::BatchSource>> Snapshots::Rows(const std::string& table,
                                                            PartitionId first, PartitionId last,
                                                            bool with_states) {
  DefinitionPtr definition = core_->definition();
  if (definition == nullptr) return NotDefined(*core_);
  const sharding::TableDefinition* defined = definition->cluster.FindTable(table);
  if (defined == nullptr) {
    return NotFound("table '" + table + "' does not exist; there are " +
                    Names(definition->cluster));
  }
  if (first > last || last > definition->shard_of_partition.size()) {
    return InvalidArgument("partitions " + std::to_string(first) + " to " + std::to_string(last) +
                           ": the cluster has " +
                           std::to_string(definition->shard_of_partition.size()));
  }
  auto copy = std::make_shared<TableCopy>();
  copy->core = core_;
  copy->snapshots = this;
  copy->table = defined->id;
  copy->shape.dim = defined->dim;
  if (with_states) {
    PS_ASSIGN_OR_RETURN(auto optimizer, optimizers::Optimizer::Create(
                                            {defined->optimizer.name, defined->optimizer.params}));
    copy->shape.states = optimizer->StateParts(defined->dim);
  }
  return std::unique_ptr<arrow::BatchSource>(
      std::make_unique<RowsSource>(std::move(copy), std::move(definition), first, last));
}

Result<std::unique_ptr<arrow::BatchSource>> Snapshots::Weights(bool with_states) {
  DefinitionPtr definition = core_->definition();
  if (definition == nullptr) return NotDefined(*core_);
  std::unique_ptr<optimizers::Optimizer> optimizer;
  if (with_states) {
    const sharding::OptimizerDefinition& dense = definition->cluster.weight_optimizer;
    PS_ASSIGN_OR_RETURN(optimizer, optimizers::Optimizer::Create({dense.name, dense.params}));
  }
  return std::unique_ptr<arrow::BatchSource>(
      std::make_unique<WeightsSource>(core_, std::move(definition), std::move(optimizer)));
}

Result<std::unique_ptr<arrow::BatchSource>> Snapshots::Ledger() {
  return std::unique_ptr<arrow::BatchSource>(
      std::make_unique<LedgerSource>(core_->ledger.Export()));
}

}  // namespace ps::server
