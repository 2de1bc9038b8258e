#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/client/fan_out.h"
#include "ps/client/key_batch.h"

namespace ps::client {

// What one call uses: a link to each server and one to the coordinator, made when first needed, a
// stream of numbered requests, and memory kept from call to call. Used by one call at a time.
struct Channel {
  explicit Channel(std::size_t server_count) : servers(server_count), stand_ins(server_count) {}

  std::vector<Link> servers;
  std::vector<Link> stand_ins;  // by home that was lost: to the server that owns its chunks now
  Link coordinator;
  // One number is in flight at a time, so that none falls out of the servers' window of numbers
  // (and is taken for done) while others pass it by. A failed call's number is not used again.
  std::uint64_t stream = 0;  // 0: none yet
  std::uint64_t next_sequence = 0;
  KeyTable key_table;
  std::vector<std::unique_ptr<KeyBatch>> batches;
  std::thread::id last_user;
};

// The channels of one client in one process. Thread-safe.
class ChannelPool {
 public:
  ChannelPool(std::size_t server_count, std::size_t channels_max);

  // A channel back to its pool at the end of a scope.
  class Lease {
   public:
    Lease(ChannelPool* pool, Channel* channel) : pool_(pool), channel_(channel) {}
    Lease(Lease&& other) noexcept : pool_(other.pool_), channel_(other.channel_) {
      other.channel_ = nullptr;
    }
    Lease& operator=(Lease&&) = delete;
    ~Lease() {
      if (channel_ != nullptr) pool_->Release(channel_);
    }
    Channel* operator->() const { return channel_; }
    Channel& operator*() const { return *channel_; }

   private:
    ChannelPool* pool_;
    Channel* channel_;
  };

  // The channel that this thread had last where it is free, else another free one, else a new one
  // while there are fewer than channels_max, else waits. kTimeout; kClosed after Close.
  Result<Lease> Acquire(SteadyTime deadline);
  // Waits until every lease has ended and hands out the channels; from now on Acquire gives
  // kClosed.
  std::vector<std::unique_ptr<Channel>> Close();

  // In a child after fork: gives the parent's sockets back to the system without a word to the
  // servers, and leaks the rest. Called once, before any other use; the pool must not be used
  // again.
  void AbandonAfterFork();

 private:
  void Release(Channel* channel);

  const std::size_t server_count_;
  const std::size_t channels_max_;
  std::mutex mutex_;
  std::condition_variable released_;
  std::vector<std::unique_ptr<Channel>> channels_;
  std::vector<Channel*> free_;
  bool is_closed_ = false;
};

}  // namespace ps::client
