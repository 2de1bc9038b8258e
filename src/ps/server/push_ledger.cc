#include "ps/server/push_ledger.h"

#include <algorithm>
#include <utility>

namespace ps::server {
namespace {

std::string Name(std::uint64_t stream, std::uint64_t sequence) {
  return "sequence " + std::to_string(sequence) + " of stream " + std::to_string(stream);
}

}  // namespace

PushLedger::PushLedger(const Clock* clock, std::size_t window, std::size_t streams_max)
    : clock_(clock), window_(window), streams_max_(streams_max) {}

Result<PushLedger::Outcome> PushLedger::Begin(std::uint64_t id, std::uint64_t sequence,
                                              Waiter waiter) {
  if (id == 0) return InvalidArgument("stream 0 cannot carry numbered requests");
  std::lock_guard lock(mutex_);
  PS_ASSIGN_OR_RETURN(Stream * stream, FindOrAdd(id, sequence));
  Touch(*stream);

  for (InProgress& entry : stream->in_progress) {
    if (entry.sequence != sequence) continue;
    entry.waiters.push_back(std::move(waiter));
    return Outcome{Decision::kWait, ""};
  }
  if (stream->ended) {
    return InvalidArgument(Name(id, sequence) + " came after the stream had ended: nothing is " +
                           "applied; give new work a stream of another name");
  }
  if (IsDone(*stream, sequence)) {
    auto kept = std::find_if(stream->answers.begin(), stream->answers.end(),
                             [&](const auto& answer) { return answer.first == sequence; });
    return Outcome{Decision::kDone, kept == stream->answers.end() ? "{}" : kept->second};
  }
  PS_RETURN_IF_ERROR(Slide(*stream, id, sequence));
  stream->in_progress.push_back({sequence, {}});
  return Outcome{Decision::kRun, ""};
}

bool PushLedger::IsDone(const Stream& stream, std::uint64_t sequence) const {
  if (sequence > stream.highest) return false;
  return stream.highest - sequence >= window_ || stream.done[sequence % window_];
}

Result<PushLedger::Stream*> PushLedger::FindOrAdd(std::uint64_t id, std::uint64_t sequence) {
  if (auto found = streams_.find(id); found != streams_.end()) return &found->second;
  if (streams_.size() >= streams_max_ && !MakeRoom()) {
    return ResourceExhausted(
        "the server remembers " + std::to_string(streams_max_) +
        " streams of numbered requests, all in use within the last 10 minutes; end streams that "
        "are finished, or try again later");
  }
  Stream& stream = streams_[id];
  stream.highest = sequence;
  stream.done.resize(window_);
  stream.recency = recency_.insert(recency_.end(), id);
  return &stream;
}

bool PushLedger::MakeRoom() {
  SteadyTime now = clock_->Now();
  for (std::uint64_t id : recency_) {
    auto at = streams_.find(id);
    if (now - at->second.used < kStreamIdleMin) return false;
    if (!at->second.in_progress.empty()) continue;
    Erase(at);
    return true;
  }
  return false;
}

void PushLedger::Touch(Stream& stream) {
  stream.used = clock_->Now();
  recency_.splice(recency_.end(), recency_, stream.recency);
}

// Gives back what an ended stream needs no more.
void PushLedger::Release(Stream& stream) {
  stream.done = {};
  stream.answers = {};
}

void PushLedger::Erase(Streams::iterator at) {
  recency_.erase(at->second.recency);
  streams_.erase(at);
}

// Moves the window up to `sequence` when that is the highest so far.
Status PushLedger::Slide(Stream& stream, std::uint64_t id, std::uint64_t sequence) {
  if (sequence <= stream.highest) return Status::Ok();
  for (const InProgress& entry : stream.in_progress) {
    if (sequence - entry.sequence < window_) continue;
    return ResourceExhausted(Name(id, sequence) + ": sequence " + std::to_string(entry.sequence) +
                             " is still in progress, and at most " + std::to_string(window_) +
                             " of a stream may be in flight at once");
  }
  std::uint64_t steps = std::min<std::uint64_t>(sequence - stream.highest, window_);
  for (std::uint64_t i = 0; i < steps; ++i) stream.done[(sequence - i) % window_] = false;
  stream.highest = sequence;
  return Status::Ok();
}

std::vector<PushLedger::Waiter> PushLedger::Finish(std::uint64_t id, std::uint64_t sequence,
                                                   bool done, const std::string& answer) {
  std::lock_guard lock(mutex_);
  auto at = streams_.find(id);
  if (at == streams_.end()) return {};
  Stream& stream = at->second;
  auto entry = std::find_if(stream.in_progress.begin(), stream.in_progress.end(),
                            [&](const InProgress& e) { return e.sequence == sequence; });
  if (entry == stream.in_progress.end()) return {};
  std::vector<Waiter> waiters = std::move(entry->waiters);
  stream.in_progress.erase(entry);
  if (done && !stream.ended) {
    stream.done[sequence % window_] = true;
    if (!answer.empty()) {
      if (stream.answers.size() == kAnswersKeptMax) stream.answers.erase(stream.answers.begin());
      stream.answers.emplace_back(sequence, answer);
    }
  }
  return waiters;
}

void PushLedger::Commit(std::uint64_t id, std::uint64_t sequence, const std::string& answer) {
  for (const Waiter& waiter : Finish(id, sequence, true, answer)) waiter(Status::Ok(), answer);
}

void PushLedger::Abort(std::uint64_t id, std::uint64_t sequence, const Status& why) {
  for (const Waiter& waiter : Finish(id, sequence, false, "")) waiter(why, "");
}

void PushLedger::End(std::span<const std::uint64_t> streams) {
  std::lock_guard lock(mutex_);
  for (std::uint64_t id : streams) {
    Result<Stream*> stream = FindOrAdd(id, 0);
    if (!stream.ok()) continue;  // full of streams in use: this one was not among them
    Touch(**stream);
    (*stream)->ended = true;
    Release(**stream);
  }
}

std::vector<PushLedger::Record> PushLedger::Export() const {
  std::lock_guard lock(mutex_);
  std::vector<Record> records;
  records.reserve(streams_.size());
  for (const auto& [id, stream] : streams_) {
    Record record{id, stream.highest, stream.ended, stream.done};
    for (const InProgress& entry : stream.in_progress) {
      if (!stream.ended) record.done[entry.sequence % window_] = true;
    }
    records.push_back(std::move(record));
  }
  return records;
}

Status PushLedger::Replace(std::span<const Record> records) {
  for (const Record& record : records) {
    if (record.stream == 0 || (!record.ended && record.done.size() != window_)) {
      return DataCorruption("the ledger's record of stream " + std::to_string(record.stream) +
                            " has a window of " + std::to_string(record.done.size()) +
                            " numbers; " + std::to_string(window_) + " are needed");
    }
  }
  Streams next;
  for (const Record& record : records) Merge(record, &next);
  if (next.size() > streams_max_) {
    return DataCorruption("the ledger has " + std::to_string(next.size()) + " streams; at most " +
                          std::to_string(streams_max_) + " are possible");
  }
  std::lock_guard lock(mutex_);
  Streams old = std::exchange(streams_, std::move(next));
  recency_.clear();
  for (auto& [id, stream] : streams_) {
    stream.used = clock_->Now();
    stream.recency = recency_.insert(recency_.end(), id);
  }
  for (auto& [id, stream] : old) {
    if (stream.in_progress.empty()) continue;
    Result<Stream*> kept = FindOrAdd(id, stream.highest);
    if (!kept.ok()) return kept.status();
    (*kept)->in_progress = std::move(stream.in_progress);
    for (const InProgress& entry : (*kept)->in_progress) {
      if (!(*kept)->ended) (void)Slide(**kept, id, entry.sequence);
    }
  }
  return Status::Ok();
}

void PushLedger::Merge(const Record& record, Streams* into) const {
  Stream other;
  other.highest = record.highest;
  other.done = record.done;
  auto [at, is_new] = into->try_emplace(record.stream);
  Stream& stream = at->second;
  if (is_new) {
    stream = std::move(other);
  } else if (record.ended || stream.ended) {
    stream.done = {};
  } else {
    const std::uint64_t highest = std::max(stream.highest, other.highest);
    std::vector<bool> done(window_);
    for (std::uint64_t i = 0; i < window_ && i <= highest; ++i) {
      done[(highest - i) % window_] = IsDone(stream, highest - i) || IsDone(other, highest - i);
    }
    stream.highest = highest;
    stream.done = std::move(done);
  }
  stream.ended = stream.ended || record.ended;
}

std::size_t PushLedger::stream_count() const {
  std::lock_guard lock(mutex_);
  return streams_.size();
}

}  // namespace ps::server
