#include "ps/server/row_gate.h"

#include <utility>

namespace ps::server {

bool RowGate::TryReserve(std::uint64_t rows) {
  std::lock_guard lock(mutex_);
  if (!waiting_.empty() || !budget_->TryReserve(rows)) return false;
  ++holders_;
  return true;
}

void RowGate::EnterExact(std::function<void()> entered) {
  {
    std::lock_guard lock(mutex_);
    if (prunes_ > 0 || !prunes_waiting_.empty()) {
      exacts_waiting_.push_back(std::move(entered));
      return;
    }
    ++exacts_;
  }
  entered();
}

std::uint64_t RowGate::generation() {
  std::lock_guard lock(mutex_);
  return generation_;
}

void RowGate::ReserveExact(std::uint64_t rows, std::uint64_t generation,
                           std::function<void(Decision)> decided) {
  Callbacks run;
  {
    std::lock_guard lock(mutex_);
    waiting_.push_back({rows, generation, std::move(decided)});
    DecideWaiting(&run);
  }
  for (auto& callback : run) callback();
}

void RowGate::Settle(std::uint64_t reserved, std::uint64_t unused) {
  Callbacks run;
  {
    std::lock_guard lock(mutex_);
    budget_->Return(unused);
    if (unused < reserved) ++generation_;
    --holders_;
    DecideWaiting(&run);
  }
  for (auto& callback : run) callback();
}

void RowGate::DecideWaiting(Callbacks* run) {
  while (!waiting_.empty()) {
    Waiting& first = waiting_.front();
    Decision decision = Decision::kAdmitted;
    if (budget_->TryReserve(first.rows)) {
      ++holders_;
    } else if (holders_ > 0) {
      return;
    } else {
      decision = first.generation == generation_ ? Decision::kRefused : Decision::kCountAgain;
    }
    run->push_back([decided = std::move(first.decided), decision] { decided(decision); });
    waiting_.pop_front();
  }
}

void RowGate::LeaveExact() {
  Callbacks run;
  {
    std::lock_guard lock(mutex_);
    --exacts_;
    AdmitWaiting(&run);
  }
  for (auto& callback : run) callback();
}

void RowGate::EnterPrune(std::function<void()> entered) {
  Callbacks run;
  {
    std::lock_guard lock(mutex_);
    prunes_waiting_.push_back(std::move(entered));
    AdmitWaiting(&run);
  }
  for (auto& callback : run) callback();
}

void RowGate::LeavePrune() {
  Callbacks run;
  {
    std::lock_guard lock(mutex_);
    --prunes_;
    // Those who waited through this step go first: a sweep of many steps does not shut them out.
    if (prunes_ == 0) {
      exacts_ += exacts_waiting_.size();
      for (auto& entered : exacts_waiting_) run.push_back(std::move(entered));
      exacts_waiting_.clear();
    }
    AdmitWaiting(&run);
  }
  for (auto& callback : run) callback();
}

void RowGate::AdmitWaiting(Callbacks* run) {
  if (exacts_ > 0) return;
  // Steps of other shards are inside: a new one would make those who wait for them wait on.
  if (prunes_ > 0 && !exacts_waiting_.empty()) return;
  prunes_ += prunes_waiting_.size();
  for (auto& entered : prunes_waiting_) run->push_back(std::move(entered));
  prunes_waiting_.clear();
}

}  // namespace ps::server
