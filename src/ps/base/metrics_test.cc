#include "ps/base/metrics.h"

#include <thread>

#include <gtest/gtest.h>

namespace ps {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

TEST(Counter, NoAddOfAnyThreadIsLost) {
  Counter counter;
  auto add = [&] {
    for (int i = 0; i < 10'000; ++i) counter.Add(2);
  };
  std::thread a(add), b(add);
  a.join();
  b.join();
  EXPECT_EQ(counter.value(), 40'000u);
}

TEST(LatencyHistogram, EmptyIsZero) {
  LatencySnapshot snapshot = LatencyHistogram().Snapshot();
  EXPECT_EQ(snapshot.count, 0u);
  EXPECT_EQ(snapshot.p999_ms(), 0);
  EXPECT_EQ(LatencySnapshot().p50_ms(), 0);
}

// Each duration of a geometric series is the median of two equal ones below a long one.
TEST(LatencyHistogram, BucketsAreNarrowFromOneMicrosecondToHundredSeconds) {
  for (double ns = 1e3; ns <= 1e11; ns *= 1.013) {
    LatencyHistogram histogram;
    auto duration = nanoseconds(static_cast<std::int64_t>(ns));
    histogram.Record(duration);
    histogram.Record(duration);
    histogram.Record(seconds(120));
    double exact_ms = static_cast<double>(duration.count()) * 1e-6;
    double p50_ms = histogram.Snapshot().p50_ms();
    EXPECT_GE(p50_ms, exact_ms);
    EXPECT_LE(p50_ms, exact_ms * 1.016);
  }
}

TEST(LatencyHistogram, QuantilesCountFromBelow) {
  LatencyHistogram histogram;
  for (int ms = 1; ms <= 1000; ++ms) histogram.Record(milliseconds(ms));
  LatencySnapshot snapshot = histogram.Snapshot();
  EXPECT_EQ(snapshot.count, 1000u);
  EXPECT_NEAR(snapshot.p50_ms(), 500, 500 * 0.016);
  EXPECT_NEAR(snapshot.p99_ms(), 990, 990 * 0.016);
  EXPECT_NEAR(snapshot.p999_ms(), 999, 999 * 0.016);
  EXPECT_DOUBLE_EQ(snapshot.max_ms(), 1000);
  EXPECT_DOUBLE_EQ(snapshot.QuantileMs(1), 1000);
  EXPECT_DOUBLE_EQ(snapshot.total_ms(), 500'500);
}

TEST(LatencyHistogram, ValuesBeyondBothEndsAreCounted) {
  LatencyHistogram histogram;
  histogram.Record(nanoseconds(-5));
  histogram.Record(nanoseconds(0));
  histogram.Record(std::chrono::hours(10));
  LatencySnapshot snapshot = histogram.Snapshot();
  EXPECT_EQ(snapshot.count, 3u);
  EXPECT_LT(snapshot.p50_ms(), 0.001);
  EXPECT_DOUBLE_EQ(snapshot.p999_ms(), 36e6);  // the true maximum, not the last bucket's end
}

TEST(LatencyHistogram, MergedSnapshotsEqualOneHistogram) {
  LatencyHistogram even, odd, all;
  for (int us = 1; us <= 5000; ++us) {
    (us % 2 == 0 ? even : odd).Record(microseconds(us));
    all.Record(microseconds(us));
  }
  LatencySnapshot merged;
  merged.Merge(even.Snapshot());
  merged.Merge(odd.Snapshot());
  LatencySnapshot whole = all.Snapshot();
  EXPECT_EQ(merged.count, whole.count);
  EXPECT_EQ(merged.total_ns, whole.total_ns);
  EXPECT_EQ(merged.max_ns, whole.max_ns);
  EXPECT_EQ(merged.buckets, whole.buckets);
}

TEST(LatencyHistogram, CumulativeCountsTellHowManyTookAtMostEachBound) {
  LatencyHistogram histogram;
  for (int us = 1; us <= 1000; ++us) histogram.Record(microseconds(us));
  histogram.Record(seconds(100));
  histogram.Record(nanoseconds(1));
  std::vector<std::uint64_t> bounds = CumulativeBoundsNs();
  std::vector<std::uint64_t> counts = histogram.Snapshot().CumulativeCounts();
  ASSERT_EQ(counts.size(), bounds.size());
  for (std::size_t i = 0; i < bounds.size(); ++i) {
    EXPECT_EQ(counts[i], 1 + std::min<std::uint64_t>(bounds[i] / 1000, 1000)) << bounds[i];
  }
  EXPECT_EQ(LatencySnapshot().CumulativeCounts(), std::vector<std::uint64_t>(bounds.size(), 0));
}

TEST(LatencyHistogram, NoRecordOfAnyThreadIsLost) {
  LatencyHistogram histogram;
  auto record = [&] {
    for (int i = 1; i <= 10'000; ++i) histogram.Record(microseconds(i % 100 + 1));
  };
  std::thread a(record), b(record);
  a.join();
  b.join();
  EXPECT_EQ(histogram.Snapshot().count, 20'000u);
}

}  // namespace
}  // namespace ps
