#include "ps/server/coordinator_link.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <span>
#include <string_view>
#include <utility>

#include "ps/base/duration.h"
#include "ps/sharding/json_fields.h"
#include "ps/wire/handshake.h"
#include "ps/wire/messages.h"

namespace ps::server {
namespace {

constexpr Duration kAttemptTimeout = std::chrono::seconds(10);
constexpr Duration kBackoffFirst = std::chrono::milliseconds(50);
constexpr Duration kBackoffMax = std::chrono::seconds(1);
// Nobody waits for the answers of a cluster whose driver has gone.
constexpr Duration kGraceWithoutDriver = std::chrono::seconds(1);

bool MayRetry(const Status& status) {
  return status.code() == StatusCode::kConnection || status.code() == StatusCode::kTimeout;
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
  connect.tls_fingerprint = options_.tls_fingerprint;
  connect.peer_silence_ms =
      net::PeerSilenceMs(std::chrono::duration<double>(options_.driver_silence).count());
  connect.expected = {wire::kCoordinatorId, 0};
  PS_ASSIGN_OR_RETURN(connection_, net::ClientConnection::Connect(connect, deadline));
  PS_ASSIGN_OR_RETURN(std::string reply,
                      connection_->Control(options_.registration_json, deadline));
  heard_ = Now();
  return Status::Ok();
}

void CoordinatorLink::Run() {
  pthread_setname_np(pthread_self(), "ps-link");
  Status status;
  while (status.ok()) {
    Result<bool> due = WaitForNextBeat();
    if (due.ok() && !*due) return;
    status = due.ok() ? Beat() : due.status();
  }
  if (stopping_.load(std::memory_order_acquire)) return;
  bool silent = status.code() == StatusCode::kTimeout;
  on_end_(silent ? "nothing was heard from the driver at " + options_.coordinator.ToString() +
                       " for driver_silence_seconds"
                 : "the driver has gone: " + status.message(),
          kGraceWithoutDriver);
}

Result<bool> CoordinatorLink::WaitForNextBeat() {
  SteadyTime due = Now() + options_.heartbeat_interval;
  while (true) {
    pollfd fds[2] = {{connection_->fd(), POLLIN, 0}, {wake_fd_, POLLIN, 0}};
    auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Now()).count();
    int ready = ::poll(fds, 2, static_cast<int>(std::max<long>(left, 0)));
    if (stopping_.load(std::memory_order_acquire)) return false;
    if (ready <= 0 && !connection_->has_buffered()) return true;
    PS_ASSIGN_OR_RETURN(auto frame, connection_->ReadFrame(heard_ + options_.driver_silence));
    HearNotice(frame);
  }
}

Status CoordinatorLink::Beat() {
  SteadyTime deadline = heard_ + options_.driver_silence;
  wire::FrameHeader header;
  header.type = wire::MessageType::kControl;
  header.request_id = connection_->NextRequestId();
  const std::string text = "{\"op\":\"heartbeat\"}";
  auto part = std::as_bytes(std::span(text.data(), text.size()));
  PS_RETURN_IF_ERROR(connection_->SendFrame(header, std::span(&part, 1), deadline));
  while (true) {
    PS_ASSIGN_OR_RETURN(auto frame, connection_->ReadFrame(deadline));
    if (frame.header.request_id == header.request_id) {
      if (frame.header.type == wire::MessageType::kError) return wire::DecodeError(frame.payload);
      heard_ = Now();
      return Status::Ok();
    }
    HearNotice(frame);
  }
}

// {"stop":true,"grace_seconds"}; what a later coordinator may have to say besides is passed over.
void CoordinatorLink::HearNotice(const net::ClientConnection::OwnedFrame& frame) {
  heard_ = Now();
  std::string_view text(reinterpret_cast<const char*>(frame.payload.data()), frame.payload.size());
  Result<sharding::Json> json = sharding::ParseObject(text);
  if (!json.ok() || sharding::FindField(*json, "stop") == nullptr) return;
  Result<double> grace = sharding::GetNumber(*json, "grace_seconds", 0.0, limits::kGraceSecondsMax);
  on_end_("a stop request of the driver", Seconds(grace.ok() ? *grace : 0.0));
}

}  // namespace ps::server
