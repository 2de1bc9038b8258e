#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "ps/net/listener.h"

namespace ps::net {

class Connection;

// What a listener, its handshakes and its connections share; it lives until the last of them is
// gone. Thread-safe.
class ListenerCore {
 public:
  ListenerCore(ListenerOptions listener_options, FrameHandler* frame_handler)
      : options(std::move(listener_options)), handler(frame_handler) {}

  const ListenerOptions options;
  FrameHandler* const handler;  // not called once the listener is destroyed

  std::atomic<std::uint64_t> connections_total{0};
  std::atomic<std::uint64_t> authentication_failures_total{0};
  std::atomic<std::uint64_t> bad_frames_total{0};
  std::atomic<std::uint64_t> stalled_total{0};
  std::atomic<std::size_t> shared_memory_bytes{0};  // of all connections
  alignas(64) std::atomic<std::uint64_t> bytes_received_total{0};
  alignas(64) std::atomic<std::uint64_t> bytes_sent_total{0};

  // False when stopped, or when there are connections_max of them.
  Status Register(std::uint64_t id, const std::shared_ptr<Connection>& connection);
  void Forget(std::uint64_t id);
  std::size_t connections_open() const;
  std::vector<std::shared_ptr<Connection>> Open() const;

  // From now on nothing registers. Returns those that are open.
  std::vector<std::shared_ptr<Connection>> Stop();
  bool stopped() const { return stopped_.load(std::memory_order_acquire); }

  // The listener is gone: what is still queued in a context must leave the handler alone.
  void Detach() { detached_.store(true, std::memory_order_release); }
  bool detached() const { return detached_.load(std::memory_order_acquire); }

 private:
  mutable std::mutex mutex_;
  std::atomic<bool> stopped_{false};
  std::atomic<bool> detached_{false};
  std::unordered_map<std::uint64_t, std::shared_ptr<Connection>> connections_;
};

}  // namespace ps::net
