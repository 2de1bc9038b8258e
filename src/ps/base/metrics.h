#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "ps/base/clock.h"

namespace ps {

// A number that only grows. Thread-safe, wait-free; readers may see it a moment late.
class Counter {
 public:
  void Add(std::uint64_t by = 1) { value_.fetch_add(by, std::memory_order_relaxed); }
  std::uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> value_{0};
};

// What a LatencyHistogram held at one moment. A plain value: copy, merge and compare freely.
struct LatencySnapshot {
  std::uint64_t count = 0;
  std::uint64_t total_ns = 0;
  std::uint64_t max_ns = 0;
  std::vector<std::uint64_t> buckets;  // empty, or LatencyHistogram::kBuckets counts

  // Adds the other's durations, as if all had been recorded in one histogram.
  void Merge(const LatencySnapshot& other);

  // Upper end of the bucket that holds the given share of all durations (0 < share <= 1), never
  // above the longest: at most 1.6 % too long from 1 us to 100 s. 0 when empty.
  double QuantileMs(double share) const;

  // Durations up to and including each of CumulativeBoundsNs().
  std::vector<std::uint64_t> CumulativeCounts() const;

  double p50_ms() const { return QuantileMs(0.5); }
  double p99_ms() const { return QuantileMs(0.99); }
  double p999_ms() const { return QuantileMs(0.999); }
  double max_ms() const { return static_cast<double>(max_ns) * 1e-6; }
  double total_ms() const { return static_cast<double>(total_ns) * 1e-6; }
};

// 2^10 ns, 2^11 ns .. 2^36 ns (about 1 us to 69 s): the ends of a histogram's doublings but for the
// last, which also holds whatever took longer.
std::vector<std::uint64_t> CumulativeBoundsNs();

// How long things took, in fixed log-linear buckets (64 to each doubling) from about 0.5 us to 137
// s; shorter and longer ones fall into the first and the last. 15 KiB. Thread-safe, lock-free; a
// snapshot taken while others record may miss the latest of them.
class LatencyHistogram {
 public:
  static constexpr int kSubBucketBits = 6;
  static constexpr int kLowestBit = 9;    // 512 ns
  static constexpr int kHighestBit = 36;  // the last doubling ends at 2^37 ns = 137 s
  static constexpr std::size_t kBuckets = static_cast<std::size_t>(kHighestBit - kLowestBit + 1)
                                          << kSubBucketBits;

  // A negative duration counts as 0.
  void Record(Duration duration);
  LatencySnapshot Snapshot() const;

 private:
  std::atomic<std::uint64_t> total_ns_{0};
  std::atomic<std::uint64_t> max_ns_{0};
  std::array<std::atomic<std::uint64_t>, kBuckets> buckets_{};
};

}  // namespace ps
