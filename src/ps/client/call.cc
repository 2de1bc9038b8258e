#include "ps/client/call.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <random>
#include <utility>

namespace ps::client {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kPauseMin{10};
constexpr milliseconds kPauseMax{1'000};
// One attempt to connect; a lost packet must not cost the whole deadline.
constexpr std::chrono::seconds kConnectAttemptMax{10};
// Damaged bytes are repeated this often before they are taken for a defect.
constexpr int kDamagedAttemptsMax = 3;

// What is known of one task over its attempts.
struct Progress {
  Task* task;
  std::optional<Status> result;  // final
  Status last;                   // why the last attempt failed
  std::optional<SteadyTime> refused_since;
  int attempts = 0;
  int damaged = 0;
  bool gave_up = false;  // `result` might have been better after another attempt

  bool is_over() const { return result.has_value(); }
};

// Nobody listens there, as far as the machine itself says; a network that fails sounds different.
bool IsRefused(const Status& status) {
  auto says = [&](int error) {
    return status.message().find(std::strerror(error)) != std::string::npos;
  };
  return status.code() == StatusCode::kConnection && (says(ECONNREFUSED) || says(ENOENT));
}

Status WithAttempts(const Progress& progress, const Status& status) {
  if (progress.attempts <= 1) return status;
  return Status(status.code(),
                status.message() + " (" + std::to_string(progress.attempts) + " attempts)");
}

void JudgeConnect(Progress* progress, Status status, bool is_final, const CallOptions& options) {
  ++progress->attempts;
  if (IsRefused(status)) {
    if (!progress->refused_since) progress->refused_since = Now();
    std::chrono::duration<double> refused = Now() - *progress->refused_since;
    if (refused.count() >= options.client->refused_give_up_seconds) is_final = true;
  } else {
    progress->refused_since.reset();
  }
  // A peer that cannot be reached in time is a connection that failed, not a call that took long.
  if (status.code() == StatusCode::kTimeout) status = ConnectionError(status.message());
  if (is_final) progress->result = WithAttempts(*progress, status);
  progress->last = std::move(status);
}

void JudgeExchange(Progress* progress, Exchange* exchange) {
  Task& task = *progress->task;
  ++progress->attempts;
  if (task.request->is_done) {
    Status refusal = std::exchange(task.request->refusal, Status::Ok());
    if (refusal.code() == StatusCode::kConnection) {
      // Busy, or about to end: nothing was done, and it may be worth another try.
      task.request->is_done = false;
      progress->last = std::move(refusal);
      return;
    }
    // From a peer it means that it is ending, not that this client is closed.
    if (refusal.code() == StatusCode::kClosed) refusal = ConnectionError(refusal.message());
    progress->result = std::move(refusal);
    return;
  }
  Status failure = std::move(exchange->failure);
  task.link->connection.reset();
  bool is_final = failure.code() == StatusCode::kTimeout || failure.code() == StatusCode::kClosed ||
                  failure.code() == StatusCode::kInvalidArgument;
  if (failure.code() == StatusCode::kDataCorruption) {
    is_final = ++progress->damaged >= kDamagedAttemptsMax;
  }
  if (is_final) progress->result = WithAttempts(*progress, failure);
  progress->last = std::move(failure);
}

void AddStats(const Link& link, std::uint64_t sent, std::uint64_t received, ClientStats* stats) {
  stats->bytes_sent += link.connection->bytes_sent() - sent;
  stats->bytes_received += link.connection->bytes_received() - received;
}

// One attempt for all tasks that are not over.
void Attempt(std::span<Progress> all, const CallOptions& options, ClientStats* stats) {
  std::vector<Exchange> exchanges;
  std::vector<Progress*> owners;
  bool is_finite = true;
  for (Progress& progress : all) {
    if (progress.is_over()) continue;
    Task& task = *progress.task;
    bool is_final = false;
    Status status = EnsureConnected(task.peer, options, task.link, &is_final);
    if (!status.ok()) {
      JudgeConnect(&progress, std::move(status), is_final, options);
      // The other servers' pushes wait for the word of this one's gradients.
      if (Status check = CheckFrames(task.request, &task.link->write_buffers); !check.ok()) {
        progress.result = std::move(check);
        is_finite = false;
      }
      continue;
    }
    progress.refused_since.reset();
    task.request->control_reply.clear();
    exchanges.push_back({task.request, task.link, Status::Ok()});
    owners.push_back(&progress);
  }
  if (!is_finite) return;
  FanOutOptions fan_out;
  fan_out.deadline = options.deadline;
  fan_out.compression = options.client->compression;
  fan_out.is_interrupted = options.client->is_interrupted;

  std::vector<std::pair<std::uint64_t, std::uint64_t>> before;
  before.reserve(exchanges.size());
  for (const Exchange& exchange : exchanges) {
    before.emplace_back(exchange.link->connection->bytes_sent(),
                        exchange.link->connection->bytes_received());
  }
  FanOut(exchanges, fan_out);
  for (std::size_t i = 0; i < exchanges.size(); ++i) {
    if (exchanges[i].link->connection != nullptr) {
      AddStats(*exchanges[i].link, before[i].first, before[i].second, stats);
    }
    JudgeExchange(owners[i], &exchanges[i]);
  }
}

// Sleeps half to the whole of `pause`; false when interrupted.
bool Pause(milliseconds pause, const CallOptions& options) {
  thread_local std::minstd_rand random(std::random_device{}());
  std::uniform_int_distribution<long> jitter(pause.count() / 2, pause.count());
  SteadyTime until = std::min(Now() + milliseconds(jitter(random)), options.deadline);
  for (SteadyTime now = Now(); now < until; now = Now()) {
    auto left = std::chrono::ceil<milliseconds>(until - now);
    ::poll(nullptr, 0, static_cast<int>(std::min(left, milliseconds(100)).count()));
    if (options.client->is_interrupted && options.client->is_interrupted()) return false;
  }
  return true;
}

// Of several failures a final one gives the class: what the others might have become does not help.
Status Combine(std::span<const Progress> all) {
  const Progress* worst = nullptr;
  std::string message;
  for (const Progress& progress : all) {
    if (progress.result->ok()) continue;
    if (worst == nullptr || (worst->gave_up && !progress.gave_up)) worst = &progress;
    message += message.empty() ? "" : "; ";
    message += progress.task->peer.Named(progress.result->message());
  }
  return worst == nullptr ? Status::Ok() : Status(worst->result->code(), std::move(message));
}

}  // namespace

std::string Peer::Name() const {
  return is_coordinator ? "coordinator (" + address->endpoint.ToString() + ")"
                        : "server " + std::to_string(address->server_id) + " (" +
                              address->endpoint.ToString() + ")";
}

std::string Peer::Named(const std::string& message) const {
  // Connections name their peer themselves.
  std::string who = is_coordinator ? "coordinator" : "server " + std::to_string(address->server_id);
  return message.starts_with(who + " at ") ? message : Name() + ": " + message;
}

Status EnsureConnected(const Peer& peer, const CallOptions& options, Link* link, bool* is_final) {
  if (link->connection != nullptr) return Status::Ok();
  net::ConnectOptions connect;
  connect.endpoint = peer.address->endpoint;
  connect.transport = options.client->transport;
  if (peer.is_coordinator) connect.transport = net::Transport::kTcp;
  connect.secret = options.client->secret;
  connect.tls_fingerprint = options.client->tls_fingerprint;
  connect.peer_silence_ms = net::PeerSilenceMs(options.client->peer_silence_seconds);
  connect.is_interrupted = options.client->is_interrupted;
  // Any incarnation is let in here, so that the wrong one can be told from a connection that
  // failed.
  connect.expected = {peer.is_coordinator ? wire::kCoordinatorId : peer.address->server_id, 0};
  auto connection = net::ClientConnection::Connect(
      connect, std::min<SteadyTime>(options.deadline, Now() + kConnectAttemptMax));
  if (!connection.ok()) {
    *is_final = connection.status().code() != StatusCode::kConnection &&
                connection.status().code() != StatusCode::kTimeout;
    return connection.status();
  }
  std::uint64_t expected = peer.address->incarnation;
  if (expected != 0 && (*connection)->peer().incarnation != expected) {
    *is_final = true;
    return ConnectionError(
        "it was started again and has lost the rows of the one this client knew; ask the driver "
        "for "
        "the servers' addresses anew and make a new client");
  }
  link->connection = std::move(connection).value();
  return Status::Ok();
}

Status RunTasks(std::span<Task> tasks, const CallOptions& options, ClientStats* stats) {
  std::vector<Progress> all(tasks.size());
  for (std::size_t i = 0; i < tasks.size(); ++i) all[i].task = &tasks[i];
  auto is_undone = [](const Progress& progress) { return !progress.is_over(); };
  auto has_failed = [](const Progress& progress) {
    return progress.is_over() && !progress.result->ok();
  };
  milliseconds pause = kPauseMin;
  while (true) {
    Attempt(all, options, stats);
    if (std::none_of(all.begin(), all.end(), is_undone)) break;
    // Whatever the others do, the call has failed.
    bool must_end = std::any_of(all.begin(), all.end(), has_failed) || Now() >= options.deadline ||
                    !Pause(pause, options) || (options.is_moot && options.is_moot());
    if (must_end) {
      for (Progress& progress : all) {
        if (progress.is_over()) continue;
        progress.result = WithAttempts(progress, progress.last);
        progress.gave_up = true;
      }
      break;
    }
    ++stats->retries;
    pause = std::min(2 * pause, kPauseMax);
  }
  return Combine(all);
}

}  // namespace ps::client
