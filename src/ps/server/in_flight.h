#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

namespace ps::server {

// Bytes and requests that are being assembled or served, over all connections, against a limit.
// Lock-free, thread-safe; outlives its tickets.
class InFlight {
 public:
  explicit InFlight(std::size_t bytes_max) : bytes_max_(bytes_max) {}

  std::size_t bytes_max() const { return bytes_max_; }
  std::size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }
  std::uint64_t requests() const { return requests_.load(std::memory_order_acquire); }

 private:
  friend class Ticket;
  bool TryAdd(std::size_t bytes) {
    std::size_t now = bytes_.load(std::memory_order_relaxed);
    do {
      if (bytes > bytes_max_ || now > bytes_max_ - bytes) return false;
    } while (!bytes_.compare_exchange_weak(now, now + bytes, std::memory_order_relaxed));
    return true;
  }

  const std::size_t bytes_max_;
  std::atomic<std::size_t> bytes_{0};
  std::atomic<std::uint64_t> requests_{0};
};

// One request's share; given back by the destructor.
class Ticket {
 public:
  explicit Ticket(InFlight* in_flight) : in_flight_(in_flight) {
    in_flight_->requests_.fetch_add(1, std::memory_order_relaxed);
  }
  ~Ticket() {
    if (in_flight_ == nullptr) return;
    Release();
    in_flight_->requests_.fetch_sub(1, std::memory_order_release);
  }
  Ticket(Ticket&& other) noexcept
      : in_flight_(std::exchange(other.in_flight_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)) {}
  Ticket& operator=(Ticket&&) = delete;

  bool TryAdd(std::size_t bytes) {
    if (!in_flight_->TryAdd(bytes)) return false;
    bytes_ += bytes;
    return true;
  }
  // Gives the bytes back; the request still counts.
  void Release() {
    in_flight_->bytes_.fetch_sub(std::exchange(bytes_, 0), std::memory_order_relaxed);
  }
  std::size_t bytes() const { return bytes_; }

 private:
  InFlight* in_flight_;
  std::size_t bytes_ = 0;
};

}  // namespace ps::server
