#include "ps/server/coordinator_link.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "ps/sharding/json_fields.h"
#include "ps/wire/handshake.h"

namespace ps::server {
namespace {

constexpr Duration kAttemptTimeout = std::chrono::seconds(10);
constexpr Duration kBackoffFirst = std::chrono::milliseconds(50);
constexpr Duration kBackoffMax = std::chrono::seconds(1);
// Nobody waits for the answers of a cluster whose driver has gone.
constexpr Duration kGraceWithoutDriver = std::chrono::seconds(1);
constexpr double kGraceSecondsMax = 3'600.0;

SteadyTime Now() { return std::chrono::steady_clock::now(); }

bool MayRetry(const Status& status) {
  return status.code() == StatusCode::kConnection || status.code() == StatusCode::kTimeout;
}

Duration Seconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

Result<std::unique_ptr<CoordinatorLink>> CoordinatorLink::Start(Options options, OnEnd on_end) {
  std::unique_ptr<CoordinatorLink> link(new CoordinatorLink(std::move(options), std::move(on_end)));
  link->wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (link->wake_fd_ < 0) return Internal("eventfd: no file descriptor left");
  PS_RETURN_IF_ERROR(link->Register());
  link->thread_ = std::thread([raw = link.get()] { raw->Run(); });
  return link;
}

CoordinatorLink::~CoordinatorLink() {
  stopping_.store(true, std::memory_order_release);
  if (thread_.joinable()) {
    std::uint64_t one = 1;
    [[maybe_unused]] auto written = ::write(wake_fd_, &one, sizeof(one));
    ::shutdown(connection_->fd(), SHUT_RDWR);  // ends a call that waits for an answer
    thread_.join();
  }
  if (wake_fd_ >= 0) ::close(wake_fd_);
}

Status CoordinatorLink::Register() {
  SteadyTime end = Now() + options_.registration_timeout;
  Duration backoff = kBackoffFirst;
  while (true) {
    Status status = TryRegister(std::min(end, Now() + kAttemptTimeout));
    if (status.ok() || !MayRetry(status)) return status;
    if (Now() + backoff >= end) {
      return ConnectionError("cannot register with the coordinator at " +
                             options_.coordinator.ToString() + ": " + status.message());
    }
    std::this_thread::sleep_for(backoff);
    backoff = std::min(2 * backoff, kBackoffMax);
  }
}

Status CoordinatorLink::TryRegister(SteadyTime deadline) {
  net::ConnectOptions connect;
  connect.endpoint = options_.coordinator;
  connect.secret = options_.secret;
  connect.expected = {wire::kCoordinatorId, 0};
  PS_ASSIGN_OR_RETURN(connection_, net::ClientConnection::Connect(connect, deadline));
  PS_ASSIGN_OR_RETURN(std::string reply,
                      connection_->Control(options_.registration_json, deadline));
  heard_ = Now();
  return Status::Ok();
}

void CoordinatorLink::Run() {
  pthread_setname_np(pthread_self(), "ps-link");
  Ending ending;
  while (WaitForNextBeat(&ending) && Beat(&ending)) {
  }
  if (!stopping_.load(std::memory_order_acquire)) on_end_(ending.reason, ending.grace);
}

bool CoordinatorLink::WaitForNextBeat(Ending* ending) {
  pollfd fds[2] = {{connection_->fd(), POLLIN, 0}, {wake_fd_, POLLIN, 0}};
  auto timeout = std::chrono::ceil<std::chrono::milliseconds>(options_.heartbeat_interval);
  int ready = ::poll(fds, 2, static_cast<int>(timeout.count()));
  if (stopping_.load(std::memory_order_acquire)) return false;
  if (ready == 0 || (ready < 0 && errno == EINTR)) return true;
  *ending = {
      "the driver has gone: its connection at " + options_.coordinator.ToString() + " was closed",
      kGraceWithoutDriver};
  return false;
}

bool CoordinatorLink::Beat(Ending* ending) {
  Result<std::string> reply =
      connection_->Control("{\"op\":\"heartbeat\"}", heard_ + options_.driver_silence);
  if (!reply.ok()) {
    bool silent = reply.status().code() == StatusCode::kTimeout;
    ending->reason = silent ? "nothing was heard from the driver at " +
                                  options_.coordinator.ToString() + " for driver_silence_seconds"
                            : "the driver has gone: " + reply.status().message();
    ending->grace = kGraceWithoutDriver;
    return false;
  }
  heard_ = Now();
  Result<sharding::Json> json = sharding::ParseObject(*reply);
  Result<bool> stop = json.ok() ? sharding::GetBool(*json, "stop") : Result<bool>(json.status());
  if (!stop.ok() || !*stop) return true;
  Result<double> grace = sharding::GetNumber(*json, "grace_seconds", 0.0, kGraceSecondsMax);
  *ending = {"a stop request of the driver", Seconds(grace.ok() ? *grace : 0.0)};
  return false;
}

}  // namespace ps::server
