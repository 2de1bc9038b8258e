// What a gathered row costs in a table of 10 M and 100 M rows (dim 4, Adagrad: 8 GB at 100 M), in
// turns with one of 1 M: it may grow by cache misses only.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "bench/statistics.h"
#include "bench/store_world.h"
#include "bench/turns.h"

namespace {

using namespace ps::bench;
using ps::Key;

// A table of its own budget.
class Table {
 public:
  explicit Table(std::size_t rows) : rows_(rows), out_(kBatchKeys * kRowDim) {
    ps::store::TableSpec spec;
    spec.name = "bench";
    spec.dim = kRowDim;
    spec.optimizer = {"adagrad", {}};
    store_ = EmbeddingStore::Create(spec, kPartitionBits, &budget_, &ps::Clock::System()).value();
    std::vector<Key> keys;
    for (std::size_t rank = 0; rank < rows_;) {
      keys.clear();
      while (keys.size() < kBatchKeys && rank < rows_) keys.push_back(KeyOfRank(rank++));
      std::size_t reserved = keys.size();
      budget_.TryReserve(reserved);
      store_->Gather(keys, nullptr, true, &reserved, out_.data());
    }
  }

  double SecondsOfGather() {
    std::vector<Key> keys(kBatchKeys);
    for (Key& key : keys) key = KeyOfRank(random_() % rows_);
    return Seconds([&] { store_->Gather(keys, nullptr, false, nullptr, out_.data()); });
  }

 private:
  static constexpr std::size_t kRowDim = 4;

  const std::size_t rows_;
  ps::store::RowBudget budget_{0};
  std::unique_ptr<EmbeddingStore> store_;
  std::mt19937_64 random_{3};
  std::vector<float> out_;
};

void CostPerRow(benchmark::State& state) {
  static Table small(1'000'000);
  Table large(static_cast<std::size_t>(state.range(0)) * 1'000'000);
  std::vector<double> costs, ratios;
  for (auto _ : state) {
    costs.push_back(large.SecondsOfGather() / kBatchKeys);
    ratios.push_back(costs.back() / (small.SecondsOfGather() / kBatchKeys));
    state.SetIterationTime(costs.back() * kBatchKeys);
  }
  char measured[96];
  std::snprintf(measured, sizeof(measured), "%.2fx (%.2f to %.2f), %.1f ns", Median(ratios),
                Quantile(ratios, 0.1), Quantile(ratios, 0.9), 1e9 * Median(costs));
  Bar("cost of a gathered row (dim 4) at " + std::to_string(state.range(0)) +
          " M rows, against 1 M",
      measured, "2.5x", "2x");
}
BENCHMARK(CostPerRow)
    ->ArgName("millions")
    ->Arg(10)
    ->Arg(100)
    ->Iterations(60)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
