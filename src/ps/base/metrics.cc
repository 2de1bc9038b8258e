#include "ps/base/metrics.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace ps {
namespace {

constexpr int kSubBits = LatencyHistogram::kSubBucketBits;

std::size_t BucketOf(std::uint64_t ns) {
  ns = std::clamp(ns, std::uint64_t{1} << LatencyHistogram::kLowestBit,
                  (std::uint64_t{2} << LatencyHistogram::kHighestBit) - 1);
  int top_bit = std::bit_width(ns) - 1;
  std::uint64_t in_doubling = (ns >> (top_bit - kSubBits)) - (1u << kSubBits);
  return (static_cast<std::size_t>(top_bit - LatencyHistogram::kLowestBit) << kSubBits) +
         in_doubling;
}

// The longest duration that falls into the bucket.
std::uint64_t BucketEndNs(std::size_t bucket) {
  int top_bit = static_cast<int>(bucket >> kSubBits) + LatencyHistogram::kLowestBit;
  std::uint64_t in_doubling = bucket & ((1u << kSubBits) - 1);
  return ((in_doubling + (1u << kSubBits) + 1) << (top_bit - kSubBits)) - 1;
}

}  // namespace

void LatencySnapshot::Merge(const LatencySnapshot& other) {
  count += other.count;
  total_ns += other.total_ns;
  max_ns = std::max(max_ns, other.max_ns);
  buckets.resize(std::max(buckets.size(), other.buckets.size()));
  for (std::size_t i = 0; i < other.buckets.size(); ++i) buckets[i] += other.buckets[i];
}

double LatencySnapshot::QuantileMs(double share) const {
  if (count == 0) return 0;
  double wanted = std::max(1.0, std::ceil(share * static_cast<double>(count)));
  std::uint64_t seen = 0;
  for (std::size_t i = 0; i + 1 < buckets.size(); ++i) {
    seen += buckets[i];
    if (static_cast<double>(seen) >= wanted) {
      return static_cast<double>(std::min(BucketEndNs(i), max_ns)) * 1e-6;
    }
  }
  return max_ms();
}

std::vector<std::uint64_t> CumulativeBoundsNs() {
  std::vector<std::uint64_t> bounds;
  for (int bit = LatencyHistogram::kLowestBit + 1; bit <= LatencyHistogram::kHighestBit; ++bit) {
    bounds.push_back(std::uint64_t{1} << bit);
  }
  return bounds;
}

std::vector<std::uint64_t> LatencySnapshot::CumulativeCounts() const {
  std::vector<std::uint64_t> counts(CumulativeBoundsNs().size());
  std::uint64_t below = 0;
  for (std::size_t bucket = 0; bucket < buckets.size(); ++bucket) {
    below += buckets[bucket];
    const std::size_t doubling = bucket >> kSubBits;
    if (doubling < counts.size()) counts[doubling] = below;
  }
  return counts;
}

void LatencyHistogram::Record(Duration duration) {
  auto ns = static_cast<std::uint64_t>(std::max<Duration::rep>(duration.count(), 0));
  buckets_[BucketOf(ns)].fetch_add(1, std::memory_order_relaxed);
  total_ns_.fetch_add(ns, std::memory_order_relaxed);
  std::uint64_t longest = max_ns_.load(std::memory_order_relaxed);
  while (ns > longest && !max_ns_.compare_exchange_weak(longest, ns, std::memory_order_relaxed)) {
  }
}

LatencySnapshot LatencyHistogram::Snapshot() const {
  LatencySnapshot snapshot;
  snapshot.buckets.resize(kBuckets);
  for (std::size_t i = 0; i < kBuckets; ++i) {
    snapshot.buckets[i] = buckets_[i].load(std::memory_order_relaxed);
    snapshot.count += snapshot.buckets[i];
  }
  snapshot.total_ns = total_ns_.load(std::memory_order_relaxed);
  snapshot.max_ns = max_ns_.load(std::memory_order_relaxed);
  return snapshot;
}

}  // namespace ps
