#include "ps/server/sweeps.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

namespace ps::server {

namespace {

std::size_t StepRows(const store::EmbeddingStore& table) {
  const std::size_t dim = table.spec().dim;
  const std::size_t row = store::RowStrideBytes(dim, table.optimizer().StateFloats(dim));
  return std::max<std::size_t>(1, Sweeps::kStepBytesMax / row);
}

}  // namespace

void Sweeps::Start(Sweep sweep, Done done) {
  auto work = std::make_shared<Work>();
  work->sweep = sweep;
  work->done = std::move(done);
  bool first = false;
  bool full = false;
  {
    std::lock_guard lock(mutex_);
    full = waiting_.size() >= kWaitingMax;
    if (!full) waiting_.push_back(work);
    first = waiting_.size() == 1;
  }
  if (full) {
    work->done(ResourceExhausted(core_->Name() + ": " + std::to_string(kWaitingMax) +
                                 " decay or prune requests are waiting already"),
               0);
  } else if (first) {
    Begin(work);
  }
}

void Sweeps::Begin(const WorkPtr& work) {
  work->definition = core_->definition();
  work->began = core_->clock->Now();
  work->shards_left.store(core_->shards.size());
  for (auto& shard : core_->shards) Continue(work, *shard, 0);
}

// Posts the step of `shard` that starts in `table`. Prune steps go through the gate (row_gate.h).
void Sweeps::Continue(const WorkPtr& work, Shard& shard, std::size_t table) {
  auto post = [this, work, &shard, table] {
    shard.Post([this, work, &shard, table] { Step(work, shard, table); });
  };
  if (work->sweep.kind == Sweep::Kind::kPrune) {
    core_->gate.EnterPrune(std::move(post));
  } else {
    post();
  }
}

void Sweeps::Step(const WorkPtr& work, Shard& shard, std::size_t table) {
  std::size_t table_count =
      work->definition == nullptr ? 0 : work->definition->cluster.tables.size();
  bool prune = work->sweep.kind == Sweep::Kind::kPrune;
  bool stop = core_->cut_short.load(std::memory_order_relaxed);
  if (table < table_count && !stop) {
    std::uint64_t pruned = 0;
    store::EmbeddingStore& rows = shard.table(table);
    bool through = prune ? rows.PruneStep(work->sweep.min_count, StepRows(rows), &pruned)
                         : rows.DecayStep(work->sweep.factor, StepRows(rows));
    work->pruned.fetch_add(pruned, std::memory_order_relaxed);
    if (through) ++table;
  }
  if (prune) core_->gate.LeavePrune();
  if (stop) work->cut_short.store(true, std::memory_order_relaxed);
  if (table < table_count && !stop) {
    Continue(work, shard, table);
  } else {
    ShardDone(work);
  }
}

void Sweeps::ShardDone(const WorkPtr& work) {
  if (work->shards_left.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Status status = work->cut_short.load(std::memory_order_relaxed)
                      ? Status(StatusCode::kClosed, core_->Name() + " ended during the sweep")
                      : Status::Ok();
  const std::uint64_t pruned = work->pruned.load(std::memory_order_relaxed);
  const std::chrono::duration<double> took = core_->clock->Now() - work->began;
  core_->log.Write(LogLevel::kInfo,
                   work->sweep.kind == Sweep::Kind::kPrune ? "rows_pruned" : "rows_decayed",
                   {{"pruned", std::to_string(pruned)},
                    {"seconds", std::to_string(took.count())},
                    {"status", std::string(StatusCodeName(status.code()))}});
  work->done(status, pruned);
  WorkPtr next;
  {
    std::lock_guard lock(mutex_);
    waiting_.pop_front();
    if (!waiting_.empty()) next = waiting_.front();
  }
  if (next != nullptr) Begin(next);
}

}  // namespace ps::server
