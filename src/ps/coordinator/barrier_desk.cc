#include "ps/coordinator/barrier_desk.h"

#include "ps/base/duration.h"
#include "ps/coordinator/reply.h"
#include "ps/sharding/json_fields.h"

namespace ps::coordinator {
namespace {

constexpr double kTimeoutSecondsMax = 1e9;

Result<Duration> GetTimeout(const sharding::Json& json) {
  PS_ASSIGN_OR_RETURN(double seconds,
                      sharding::GetNumber(json, "timeout_seconds", 0.0, kTimeoutSecondsMax));
  return Seconds(seconds);
}

}  // namespace

bool BarrierDesk::Knows(const std::string& op) {
  return op == "create_barrier" || op == "enter_barrier" || op == "wait_barrier" ||
         op == "release_barrier";
}

void BarrierDesk::Serve(const net::ConnectionPtr& connection, std::uint64_t request_id,
                        const std::string& op, const sharding::Json& json) {
  bool is_answered_later = false;
  Status status = Begin(op, json, {connection->id(), request_id}, &is_answered_later);
  if (!status.ok()) {
    connection->SendError(request_id, status);
  } else if (is_answered_later) {
    waiting_[connection->id()] = connection;
  } else {
    SendReply(connection, request_id, std::string("{}"));
  }
  SendAnswers();
  WaitForNextDue();
}

Status BarrierDesk::Begin(const std::string& op, const sharding::Json& json,
                          Barriers::Waiter waiter, bool* is_answered_later) {
  PS_ASSIGN_OR_RETURN(std::string name, sharding::GetString(json, "name"));
  if (op == "create_barrier") {
    PS_ASSIGN_OR_RETURN(std::uint64_t size, sharding::GetUnsigned(json, "num_workers"));
    return barriers_.Create(name, size);
  }
  if (op == "release_barrier") return barriers_.Release(name);
  *is_answered_later = true;
  PS_ASSIGN_OR_RETURN(Duration timeout, GetTimeout(json));
  if (op == "wait_barrier") return barriers_.Wait(name, timeout, waiter, Now());
  Barriers::Entry entry;
  entry.timeout = timeout;
  PS_ASSIGN_OR_RETURN(entry.member, sharding::GetString(json, "member"));
  PS_ASSIGN_OR_RETURN(entry.attempt, sharding::GetString(json, "attempt"));
  return barriers_.Enter(name, entry, waiter, Now());
}

void BarrierDesk::ConnectionEnded(std::uint64_t connection_id) {
  if (waiting_.erase(connection_id) == 0) return;
  barriers_.LineEnded(connection_id, Now());
  WaitForNextDue();
}

void BarrierDesk::Close(const Status& why) {
  barriers_.Close(why);
  SendAnswers();
  timer_.cancel();
}

void BarrierDesk::SendAnswers() {
  for (const Barriers::Answer& answer : barriers_.TakeAnswers()) {
    auto found = waiting_.find(answer.waiter.line);
    if (found == waiting_.end()) continue;
    Result<std::string> reply = answer.status.ok() ? Result<std::string>(std::string("{}"))
                                                   : Result<std::string>(answer.status);
    SendReply(found->second, answer.waiter.request_id, reply);
  }
}

void BarrierDesk::WaitForNextDue() {
  std::optional<SteadyTime> due = barriers_.next_due();
  if (!due.has_value()) {
    timer_.cancel();
    return;
  }
  timer_.expires_at(*due);
  timer_.async_wait([this](const asio::error_code& error) {
    if (error) return;
    barriers_.Advance(Now());
    SendAnswers();
    WaitForNextDue();
  });
}

}  // namespace ps::coordinator
