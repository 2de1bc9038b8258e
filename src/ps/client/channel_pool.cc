#include "ps/client/channel_pool.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace ps::client {

ChannelPool::ChannelPool(std::size_t server_count, std::size_t channels_max)
    : server_count_(server_count), channels_max_(std::max<std::size_t>(channels_max, 1)) {}

Result<ChannelPool::Lease> ChannelPool::Acquire(SteadyTime deadline) {
  std::unique_lock lock(mutex_);
  auto is_available = [&] {
    return is_closed_ || !free_.empty() || channels_.size() < channels_max_;
  };
  if (!released_.wait_until(lock, deadline, is_available)) {
    return TimeoutError("all " + std::to_string(channels_max_) +
                        " channels of the client were in use until the deadline; use fewer threads "
                        "at once, or a client each");
  }
  if (is_closed_) return Status(StatusCode::kClosed, "the client is closed");
  if (free_.empty()) {
    channels_.push_back(std::make_unique<Channel>(server_count_));
    free_.push_back(channels_.back().get());
  }
  auto self = std::this_thread::get_id();
  auto mine = std::find_if(free_.begin(), free_.end(),
                           [&](const Channel* channel) { return channel->last_user == self; });
  if (mine == free_.end()) mine = free_.end() - 1;
  Channel* channel = *mine;
  free_.erase(mine);
  channel->last_user = self;
  return Lease(this, channel);
}

void ChannelPool::Release(Channel* channel) {
  {
    std::lock_guard lock(mutex_);
    free_.push_back(channel);
  }
  released_.notify_all();
}

std::vector<std::unique_ptr<Channel>> ChannelPool::Close() {
  std::unique_lock lock(mutex_);
  is_closed_ = true;
  released_.notify_all();
  released_.wait(lock, [&] { return free_.size() == channels_.size(); });
  free_.clear();
  return std::exchange(channels_, {});
}

void ChannelPool::AbandonAfterFork() {
  // Another thread may have held the lock in the parent; then the sockets stay open here.
  if (!mutex_.try_lock()) return;
  auto abandon = [](Link* link) {
    if (link->connection != nullptr) ::close(link->connection.release()->fd());
  };
  for (const auto& channel : channels_) {
    for (Link& link : channel->servers) abandon(&link);
    abandon(&channel->coordinator);
  }
}

}  // namespace ps::client
