#include "ps/coordinator/roster.h"

#include <utility>

namespace ps::coordinator {

Result<bool> Roster::Register(ServerRecord record, std::uint64_t line, SteadyTime now) {
  std::lock_guard lock(mutex_);
  PS_RETURN_IF_ERROR(members_.Register(std::move(record), line, now));
  return members_.all_registered();
}

bool Roster::Heard(std::uint64_t line, SteadyTime now) {
  std::lock_guard lock(mutex_);
  return members_.Heard(line, now).has_value();
}

void Roster::LineEnded(std::uint64_t line) {
  std::lock_guard lock(mutex_);
  members_.LineEnded(line);
  changed_.notify_all();
}

std::vector<std::uint64_t> Roster::EndSilentLines(SteadyTime now) {
  std::lock_guard lock(mutex_);
  std::vector<std::uint64_t> ended = members_.EndSilentLines(now);
  if (!ended.empty()) changed_.notify_all();
  return ended;
}

void Roster::DefinitionArrived(const Status& status) {
  std::lock_guard lock(mutex_);
  if (!members_.all_registered()) return;
  if (status.ok()) {
    members_.MarkRunning();
    running_ = true;
  } else {
    start_error_ = status;
  }
  changed_.notify_all();
}

void Roster::BeginStopping() {
  std::lock_guard lock(mutex_);
  members_.BeginStopping();
  changed_.notify_all();
}

void Roster::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

std::vector<ServerRecord> Roster::Records() const {
  std::lock_guard lock(mutex_);
  return members_.Records();
}

bool Roster::stopping() const {
  std::lock_guard lock(mutex_);
  return members_.stopping();
}

bool Roster::Gone(std::uint32_t server) const {
  std::lock_guard lock(mutex_);
  return closed_ || members_.stopping() || !members_.has_line(server);
}

Status Roster::CheckRunning() const {
  std::lock_guard lock(mutex_);
  if (members_.stopping() || closed_) {
    return Status(StatusCode::kClosed, "the cluster is stopping");
  }
  if (auto lost = members_.IdsIn(ServerState::kLost); !lost.empty()) {
    return ConnectionError("server " + IdList(lost) + " was lost");
  }
  if (!running_) return ConnectionError("the cluster is starting; try again");
  return Status::Ok();
}

std::vector<std::uint32_t> Roster::Lost() const {
  std::lock_guard lock(mutex_);
  return members_.IdsIn(ServerState::kLost);
}

Status Roster::WaitRunning(SteadyTime deadline) {
  std::unique_lock lock(mutex_);
  auto lost = [this] { return members_.IdsIn(ServerState::kLost); };
  auto decided = [&] {
    return running_ || !start_error_.ok() || closed_ || members_.stopping() || !lost().empty();
  };
  bool in_time = changed_.wait_until(lock, deadline, decided);
  if (!start_error_.ok()) return start_error_;
  if (!lost().empty()) return ConnectionError("server " + IdList(lost()) + " was lost");
  if (closed_ || members_.stopping()) {
    return Status(StatusCode::kClosed, "the cluster is stopping");
  }
  if (in_time) return Status::Ok();
  auto missing = members_.IdsMissing();
  if (missing.empty()) {
    return TimeoutError("the servers did not take the tables' definitions in time");
  }
  return TimeoutError("server " + IdList(missing) + " of " +
                      std::to_string(members_.server_count()) +
                      " did not register with the coordinator in time");
}

Status Roster::WaitGone(SteadyTime deadline) {
  std::unique_lock lock(mutex_);
  auto all_gone = [this] { return closed_ || members_.IdsWithLine().empty(); };
  if (changed_.wait_until(lock, deadline, all_gone)) return Status::Ok();
  return TimeoutError("server " + IdList(members_.IdsWithLine()) + " did not end in time");
}

}  // namespace ps::coordinator
