#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "ps/base/limits.h"

namespace ps::server {

// Bytes and requests that are being assembled or served, over all connections, up to the last byte
// of the reply. At most requests_max of them take bytes. Requests share
// `bytes_max`; beside it one request at a time, one that is large by itself (above a quarter of
// bytes_max), may take up to oversized_bytes_max(), so that nothing is refused for its size but
// what is larger than that. Lock-free, thread-safe; outlives its tickets.
class InFlight {
 public:
  explicit InFlight(std::size_t bytes_max,
                    std::uint64_t requests_max = limits::kRequestsPerServerMax)
      : bytes_max_(bytes_max), requests_max_(requests_max) {}

  enum class Taken {
    kYes,
    kBusy,   // not now: others have it
    kNever,  // the request is larger than any may be
  };

  std::size_t bytes_max() const { return bytes_max_; }
  std::uint64_t requests_max() const { return requests_max_; }
  std::size_t oversized_bytes_max() const { return 16 * bytes_max_; }
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
  const std::uint64_t requests_max_;
  std::atomic<std::size_t> bytes_{0};
  std::atomic<std::uint64_t> requests_{0};
  std::atomic<bool> oversized_taken_{false};
};

// One request's share; given back by the destructor. Not thread-safe.
class Ticket {
 public:
  explicit Ticket(InFlight* in_flight) : in_flight_(in_flight) {
    in_flight_->requests_.fetch_add(1, std::memory_order_relaxed);
  }
  ~Ticket() {
    Release();
    in_flight_->requests_.fetch_sub(1, std::memory_order_release);
  }
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;

  InFlight::Taken TryAdd(std::size_t bytes) {
    bool is_first = bytes_ == 0 && !oversized_;
    if (is_first && in_flight_->requests() > in_flight_->requests_max_) {
      return InFlight::Taken::kBusy;
    }
    if (bytes_ + bytes > in_flight_->oversized_bytes_max()) return InFlight::Taken::kNever;
    if (!oversized_ && !in_flight_->TryAdd(bytes) && !TakeOversized(bytes)) {
      return InFlight::Taken::kBusy;
    }
    bytes_ += bytes;
    return InFlight::Taken::kYes;
  }
  // Gives the bytes back; the request still counts.
  void Release() {
    std::size_t bytes = std::exchange(bytes_, 0);
    if (std::exchange(oversized_, false)) {
      in_flight_->oversized_taken_.store(false, std::memory_order_release);
    } else {
      in_flight_->bytes_.fetch_sub(bytes, std::memory_order_relaxed);
    }
  }
  std::size_t bytes() const { return bytes_; }

 private:
  bool TakeOversized(std::size_t bytes) {
    if (bytes_ + bytes <= in_flight_->bytes_max_ / 4) return false;
    if (in_flight_->oversized_taken_.exchange(true, std::memory_order_acquire)) return false;
    in_flight_->bytes_.fetch_sub(bytes_, std::memory_order_relaxed);
    oversized_ = true;
    return true;
  }

  InFlight* const in_flight_;
  std::size_t bytes_ = 0;
  bool oversized_ = false;
};

}  // namespace ps::server
