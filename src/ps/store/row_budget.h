#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ps::store {

// Rows a server may hold, all tables and shards together. Lock-free, thread-safe.
// A request reserves before it creates, and gives back what it did not use; rows that go are
// returned. Reserved + existing never passes the limit.
class RowBudget {
 public:
  explicit RowBudget(std::uint64_t rows_max) : rows_max_(rows_max) {}  // 0 = unlimited

  bool TryReserve(std::uint64_t rows) {
    if (rows_max_ == 0) {
      used_.fetch_add(rows, std::memory_order_relaxed);
      return true;
    }
    std::uint64_t used = used_.load(std::memory_order_relaxed);
    do {
      if (rows > rows_max_ || used > rows_max_ - rows) return false;
    } while (!used_.compare_exchange_weak(used, used + rows, std::memory_order_relaxed));
    return true;
  }
  // Counts rows that exist already, past the limit if need be.
  void Take(std::uint64_t rows) { used_.fetch_add(rows, std::memory_order_relaxed); }
  void Return(std::uint64_t rows) { used_.fetch_sub(rows, std::memory_order_relaxed); }

  std::uint64_t rows_max() const { return rows_max_; }
  std::uint64_t used() const { return used_.load(std::memory_order_relaxed); }

 private:
  const std::uint64_t rows_max_;
  std::atomic<std::uint64_t> used_{0};
};

}  // namespace ps::store
