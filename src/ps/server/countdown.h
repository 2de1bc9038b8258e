#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>

#include "ps/server/core.h"

namespace ps::server {

// Lets a thread that is no shard's wait for work that it has posted to shards. Shared with that
// work, which may come later than the wait's end. Thread-safe.
class Countdown {
 public:
  explicit Countdown(std::size_t count) : left_(count) {}

  void Done() {
    std::lock_guard lock(mutex_);
    if (--left_ == 0) changed_.notify_all();
  }
  // kClosed when the server ends first: shards run nothing any more then.
  Status Wait(const Core& core) {
    std::unique_lock lock(mutex_);
    while (!changed_.wait_for(lock, kCheckInterval, [this] { return left_ == 0; })) {
      if (core.cut_short.load()) return Status(StatusCode::kClosed, core.Name() + " is stopping");
    }
    return Status::Ok();
  }

 private:
  static constexpr Duration kCheckInterval = std::chrono::milliseconds(100);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t left_;
};

}  // namespace ps::server
