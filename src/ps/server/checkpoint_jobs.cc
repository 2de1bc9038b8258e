#include "ps/server/checkpoint_jobs.h"

#include <algorithm>
#include <utility>

#include "ps/sharding/json_fields.h"

namespace ps::server {
namespace {

using sharding::Json;

// What the host wrote; it is this program's own text.
Json Parsed(const std::string& text) {
  Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  return json.is_object() ? json : Json::object();
}

}  // namespace

const char* CheckpointJobs::Name(State state) {
  switch (state) {
    case State::kWaiting:
      return "waiting";
    case State::kRunning:
      return "running";
    case State::kDone:
      return "done";
    case State::kFailed:
      return "failed";
    case State::kCancelled:
      return "cancelled";
  }
  return "";
}

Result<std::string> CheckpointJobs::Serve(const std::string& op, const Json& request) {
  PS_ASSIGN_OR_RETURN(std::string name, sharding::GetString(request, "job"));
  if (name.empty() || name.size() > kNameBytesMax) {
    return InvalidArgument("job: a name of 1 to " + std::to_string(kNameBytesMax) +
                           " bytes is needed");
  }
  std::lock_guard lock(mutex_);
  if (op == "checkpoint_start") {
    PS_RETURN_IF_ERROR(Start(name, request));
    return std::string("{}");
  }
  Entry* entry = Find(name);
  if (entry == nullptr) return NotFound("there is no checkpoint job '" + name + "'");
  if (op == "checkpoint_status") {
    Json answer{{"state", Name(entry->state)}, {"progress", Parsed(entry->progress)}};
    if (entry->state == State::kDone) answer["result"] = Parsed(entry->outcome);
    if (entry->state == State::kFailed) answer["error"] = Parsed(entry->outcome);
    return sharding::Dump(answer);
  }
  if (op == "checkpoint_cancel") {
    entry->cancel = true;
    if (entry->state == State::kWaiting) entry->state = State::kCancelled;
    return std::string("{}");
  }
  return InvalidArgument("unknown operation '" + op.substr(0, 64) +
                         "'; there are checkpoint_start, checkpoint_status, checkpoint_cancel");
}

Status CheckpointJobs::Start(const std::string& name, const Json& request) {
  PS_ASSIGN_OR_RETURN(const Json* task, sharding::GetObject(request, "task"));
  if (Find(name) != nullptr) return Status::Ok();
  const auto is = [this](State state) {
    return std::count_if(entries_.begin(), entries_.end(),
                         [state](const Entry& entry) { return entry.state == state; });
  };
  const auto waiting = static_cast<std::size_t>(is(State::kWaiting));
  if (waiting >= kWaitingMax) {
    return ResourceExhausted(std::to_string(kWaitingMax) +
                             " checkpoint jobs are waiting on this server already");
  }
  const std::size_t ended = entries_.size() - waiting - is(State::kRunning);
  if (ended > kEndedKeptMax) {
    entries_.erase(std::find_if(entries_.begin(), entries_.end(), [](const Entry& entry) {
      return entry.state != State::kWaiting && entry.state != State::kRunning;
    }));
  }
  Entry& entry = entries_.emplace_back();
  entry.job = {name, sharding::Dump(*task)};
  changed_.notify_all();
  return Status::Ok();
}

std::optional<CheckpointJobs::Job> CheckpointJobs::Take(Duration timeout) {
  std::unique_lock lock(mutex_);
  auto next = entries_.end();
  const auto found = [&] {
    next = std::find_if(entries_.begin(), entries_.end(),
                        [](const Entry& entry) { return entry.state == State::kWaiting; });
    return closed_ || next != entries_.end();
  };
  if (!changed_.wait_for(lock, timeout, found) || closed_) return std::nullopt;
  next->state = State::kRunning;
  // Tasks may hold credentials of the storage: nothing of them stays here.
  return std::exchange(next->job, Job{next->job.name, ""});
}

bool CheckpointJobs::Report(const std::string& name, const std::string& progress_json) {
  std::lock_guard lock(mutex_);
  Entry* entry = Find(name);
  if (entry == nullptr) return false;
  entry->progress = progress_json;
  return !entry->cancel && !closed_;
}

void CheckpointJobs::Finish(const std::string& name, const std::string& result_json) {
  End(name, State::kDone, result_json);
}

void CheckpointJobs::Fail(const std::string& name, const std::string& error_class,
                          const std::string& message) {
  const Json error{{"class", error_class}, {"message", message}};
  End(name, State::kFailed, sharding::Dump(error));
}

void CheckpointJobs::Close() {
  std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

CheckpointJobs::Entry* CheckpointJobs::Find(const std::string& name) {
  auto found = std::find_if(entries_.begin(), entries_.end(),
                            [&](const Entry& entry) { return entry.job.name == name; });
  return found == entries_.end() ? nullptr : &*found;
}

void CheckpointJobs::End(const std::string& name, State state, std::string outcome) {
  std::lock_guard lock(mutex_);
  Entry* entry = Find(name);
  if (entry == nullptr) return;
  entry->state = state;
  entry->outcome = std::move(outcome);
}

}  // namespace ps::server
