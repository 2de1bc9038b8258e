#include "ps/server/data_request.h"

#include <algorithm>
#include <asio/post.hpp>
#include <numeric>
#include <string>
#include <utility>

namespace ps::server {
namespace {

// What a shard has to do with so many bytes of rows is done sooner than its thread is woken.
constexpr std::size_t kInlineWorkBytesMax = 32'768;

}  // namespace

bool DataRequest::Start(Release release) {
  std::uint64_t rows = plan_->new_rows_max_total();
  rows_of_shard_ = plan_->new_rows_max;
  if (rows == 0) {
    Run();
    return true;
  }
  if (core().gate.TryReserve(rows)) {
    hold_ = Hold::kReserved;
    Run();
    return true;
  }
  hold_ = Hold::kExact;
  release_ = std::move(release);
  core().gate.EnterExact([self = shared_from_this()] { self->CountOnShards(); });
  return false;
}

void DataRequest::CountOnShards() {
  generation_ = core().gate.generation();
  rows_of_shard_ = plan_->new_rows_max;
  missing_.assign(core().shards.size(), {});
  int shards = 0;
  for (std::uint64_t rows : rows_of_shard_) shards += rows > 0;
  shards_left_.store(shards, std::memory_order_relaxed);
  for (auto& shard : core().shards) {
    if (rows_of_shard_[shard->index()] == 0) continue;
    shard->Post([self = shared_from_this(), &shard = *shard] {
      self->rows_of_shard_[shard.index()] = self->CountOn(shard);
      if (self->shards_left_.fetch_sub(1, std::memory_order_acq_rel) == 1) self->Counted();
    });
  }
}

// Keys of one table are counted together, so that one that stands in several sections counts once.
std::uint64_t DataRequest::CountOn(Shard& shard) {
  std::map<TableId, std::vector<Key>> keys;
  for (const FramePlan& frame : plan_->frames) {
    for (const SectionPlan& section : frame.sections) {
      const wire::SectionHead& head = section.view.head;
      bool creates =
          head.kind == wire::SectionKind::kRows &&
          (request_->type == wire::MessageType::kPush || (head.flags & wire::kCreateMissing) != 0);
      if (!creates) continue;
      std::span<const Key> part = section.PartOf(shard.index()).keys;
      keys[head.id].insert(keys[head.id].end(), part.begin(), part.end());
    }
  }
  std::uint64_t total = 0;
  for (const auto& [table, of_table] : keys) {
    std::size_t missing = shard.table(table).CountMissing(of_table);
    if (missing > 0) missing_[shard.index()][table] = missing;
    total += missing;
  }
  return total;
}

void DataRequest::Counted() {
  std::uint64_t rows =
      std::accumulate(rows_of_shard_.begin(), rows_of_shard_.end(), std::uint64_t{0});
  auto decided = [self = shared_from_this()](RowGate::Decision decision) {
    self->PostToConnection([self, decision] { self->Decided(decision); });
  };
  if (rows == 0) {
    hold_ = Hold::kExact;
    decided(RowGate::Decision::kAdmitted);
    return;
  }
  hold_ = Hold::kExactReserved;
  core().gate.ReserveExact(rows, generation_, std::move(decided));
}

void DataRequest::Decided(RowGate::Decision decision) {
  if (decision == RowGate::Decision::kCountAgain) {
    CountOnShards();
    return;
  }
  Release release = std::move(release_);
  if (decision == RowGate::Decision::kAdmitted) {
    Run();
  } else {
    Status full = Full();
    core().gate.LeaveExact();
    OnRefused(full);
  }
  release();
}

Status DataRequest::Full() const {
  std::map<TableId, std::uint64_t> missing;
  for (const auto& of_shard : missing_) {
    for (const auto& [table, rows] : of_shard) missing[table] += rows;
  }
  std::string tables;
  for (const auto& [table, rows] : missing) {
    tables += (tables.empty() ? "" : ", ") + std::to_string(rows) + " new keys of table '" +
              definition_->cluster.tables[table].name + "'";
  }
  const Core& core = *request_->core;
  return ResourceExhausted(core.Name() + ": no room for " + tables + ": it holds " +
                           std::to_string(core.budget.used()) + " rows of at most " +
                           std::to_string(core.budget.rows_max()) +
                           " (max_embeddings_per_shard); raise that setting, prune, or use more "
                           "servers. Nothing of the request was done here");
}

void DataRequest::Run() {
  const std::vector<std::size_t>& work = plan_->work_bytes;
  int shards = static_cast<int>(work.size() - std::count(work.begin(), work.end(), 0));
  shards_left_.store(shards, std::memory_order_relaxed);
  for (std::size_t i = 0; i < plan_->frames.size(); ++i) {
    if (plan_->frames[i].shards_left.load(std::memory_order_relaxed) == 0) OnFrameDone(i);
  }
  if (shards == 0) {
    Finish();
    return;
  }
  if (IsOrdered()) {
    RunInOrder();
    return;
  }
  const int own = request_->connection->context_index();
  const auto runs_here = [&](int shard) {
    return shard == own || work[shard] <= kInlineWorkBytesMax;
  };
  for (auto& shard : core().shards) {
    if (work[shard->index()] > 0 && !runs_here(shard->index())) PostTo(*shard);
  }
  for (auto& shard : core().shards) {
    if (work[shard->index()] == 0 || !runs_here(shard->index())) continue;
    if (!shard->TryRun([&] { RunShard(*shard); })) PostTo(*shard);
  }
}

void DataRequest::PostTo(Shard& shard) {
  shard.Post([self = shared_from_this(), &shard] { self->RunShard(shard); });
}

void DataRequest::RunInOrder() {
  Status status = Post([this] {
    for (auto& shard : core().shards) {
      if (plan_->work_bytes[shard->index()] > 0) PostTo(*shard);
    }
  });
  if (status.ok()) return;
  GiveBackRows(RowsReserved());
  OnRefused(status);
}

void DataRequest::RunShard(Shard& shard) {
  std::size_t reserved = rows_of_shard_[shard.index()];
  for (std::size_t i = 0; i < plan_->frames.size(); ++i) {
    FramePlan& frame = plan_->frames[i];
    bool concerned = false;
    for (SectionPlan& section : frame.sections) {
      if (!section.Concerns(shard.index())) continue;
      concerned = true;
      RunSection(shard, frame, section, &reserved);
    }
    bool last = concerned && frame.shards_left.fetch_sub(1, std::memory_order_acq_rel) == 1;
    if (last) OnFrameDone(i);
  }
  unused_.fetch_add(reserved, std::memory_order_relaxed);
  if (shards_left_.fetch_sub(1, std::memory_order_acq_rel) == 1) Finish();
}

void DataRequest::Finish() {
  GiveBackRows(unused_.load(std::memory_order_relaxed));
  OnDone();
}

void DataRequest::GiveBackRows(std::size_t unused) {
  if (hold_ == Hold::kReserved || hold_ == Hold::kExactReserved) {
    core().gate.Settle(RowsReserved(), unused);
  }
  if (hold_ == Hold::kExact || hold_ == Hold::kExactReserved) core().gate.LeaveExact();
}

std::size_t DataRequest::RowsReserved() const {
  return std::accumulate(rows_of_shard_.begin(), rows_of_shard_.end(), std::uint64_t{0});
}

void DataRequest::PostToConnection(std::function<void()> function) {
  asio::post(request_->connection->context(), std::move(function));
}

}  // namespace ps::server
