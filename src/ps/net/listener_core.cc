#include "ps/net/listener_core.h"

#include <string>
#include <utility>

#include "ps/net/server_connection.h"

namespace ps::net {

Status ListenerCore::Register(std::uint64_t id, const std::shared_ptr<Connection>& connection) {
  std::lock_guard lock(mutex_);
  if (stopped()) return Status(StatusCode::kClosed, "the server is stopping");
  if (connections_.size() >= options.connections_max) {
    return ResourceExhausted("the server has its " + std::to_string(options.connections_max) +
                             " connections; close some, or start more servers");
  }
  connections_.emplace(id, connection);
  connections_total.fetch_add(1, std::memory_order_relaxed);
  return Status::Ok();
}

void ListenerCore::Forget(std::uint64_t id) {
  std::shared_ptr<Connection> last;  // freed outside the lock
  std::lock_guard lock(mutex_);
  auto found = connections_.find(id);
  if (found == connections_.end()) return;
  last = std::move(found->second);
  connections_.erase(found);
}

std::size_t ListenerCore::connections_open() const {
  std::lock_guard lock(mutex_);
  return connections_.size();
}

std::vector<std::shared_ptr<Connection>> ListenerCore::Open() const {
  std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Connection>> open;
  open.reserve(connections_.size());
  for (auto& [id, connection] : connections_) open.push_back(connection);
  return open;
}

std::vector<std::shared_ptr<Connection>> ListenerCore::Stop() {
  {
    std::lock_guard lock(mutex_);
    stopped_.store(true, std::memory_order_release);
  }
  return Open();
}

}  // namespace ps::net
