#include "ps/coordinator/server_calls.h"

#include <sys/socket.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace ps::coordinator {
namespace {

constexpr Duration kBackoffFirst = std::chrono::milliseconds(20);
constexpr Duration kBackoffMax = std::chrono::milliseconds(500);
// A host that swallows packets must not keep a call from noticing that it shall end.
constexpr Duration kConnectAttemptMax = std::chrono::seconds(2);

Status Named(const ServerRecord& server, const Status& status) {
  return Status(status.code(), "server " + std::to_string(server.server_id) + " at " +
                                   server.endpoint.ToString() + ": " + status.message());
}

}  // namespace

Result<std::string> ServerCalls::Call(const ServerRecord& server, const std::string& json,
                                      SteadyTime deadline, const std::function<bool()>& given_up) {
  Duration backoff = kBackoffFirst;
  while (true) {
    Result<std::string> reply = TryOnce(server, json, deadline);
    if (reply.ok()) return reply;
    bool again = reply.status().code() == StatusCode::kConnection && !aborted_ && !given_up() &&
                 Now() + backoff < deadline;
    if (!again) return Named(server, reply.status());
    std::this_thread::sleep_for(backoff);
    backoff = std::min(2 * backoff, kBackoffMax);
  }
}

Result<std::string> ServerCalls::TryOnce(const ServerRecord& server, const std::string& json,
                                         SteadyTime deadline) {
  net::ClientConnection* connection = nullptr;
  {
    std::lock_guard lock(mutex_);
    connection = connections_[server.server_id].get();
  }
  if (aborted_) return Status(StatusCode::kClosed, "the coordinator is closing");
  if (connection == nullptr) {
    net::ConnectOptions options;
    options.endpoint = server.endpoint;
    options.secret = key_.secret;
    options.tls_fingerprint = key_.tls_fingerprint;
    options.peer_silence_ms = key_.peer_silence_ms;
    options.expected = {server.server_id, server.incarnation};
    auto made =
        net::ClientConnection::Connect(options, std::min(deadline, Now() + kConnectAttemptMax));
    if (!made.ok()) {
      // A peer that cannot be reached in time is a connection that failed.
      bool timed_out = made.status().code() == StatusCode::kTimeout;
      return timed_out ? ConnectionError(made.status().message()) : made.status();
    }
    connection = made->get();
    Keep(server.server_id, std::move(made).value());
  }
  Result<std::string> reply = connection->Control(json, deadline);
  bool broken = !reply.ok() && (reply.status().code() == StatusCode::kConnection ||
                                reply.status().code() == StatusCode::kTimeout ||
                                reply.status().code() == StatusCode::kDataCorruption);
  if (broken) Keep(server.server_id, nullptr);
  return reply;
}

void ServerCalls::Keep(std::uint32_t id, std::unique_ptr<net::ClientConnection> connection) {
  std::unique_ptr<net::ClientConnection> old;  // closed outside the lock
  std::lock_guard lock(mutex_);
  old = std::exchange(connections_[id], std::move(connection));
}

void ServerCalls::Abort() {
  aborted_ = true;
  std::lock_guard lock(mutex_);
  for (auto& connection : connections_) {
    if (connection != nullptr) ::shutdown(connection->fd(), SHUT_RDWR);
  }
}

}  // namespace ps::coordinator
