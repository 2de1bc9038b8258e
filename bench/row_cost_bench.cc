// What a gathered row costs in a table of 10 M and 100 M rows (dim 4, Adagrad: 8 GB at 100 M), in
// turns with one of 1 M: it may grow by cache misses only. How much those grow on this machine says
// the same gather with known addresses, one miss a row instead of two.
#include <benchmark/benchmark.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
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

  // Draws the rows of the next batches, so that looking up their addresses is long past, and out
  // of the caches, when they are measured.
  void Draw() {
    for (Batch& batch : batches_) {
      batch.keys.resize(kBatchKeys);
      batch.rows.resize(kBatchKeys);
      for (std::size_t i = 0; i < kBatchKeys; ++i) {
        batch.keys[i] = KeyOfRank(random_() % rows_);
        const ps::store::RowHeader* header;
        if (!store_->Find(batch.keys[i], &header, &batch.rows[i])) std::abort();
      }
    }
  }

  double SecondsOfGather(std::size_t turn) {
    const Batch& batch = batches_[turn % kBatches];
    return Seconds([&] { store_->Gather(batch.keys, nullptr, false, nullptr, out_.data()); });
  }

  double SecondsOfKnown(std::size_t turn) {
    const Batch& batch = batches_[(turn + kBatches / 2) % kBatches];
    return Seconds([&] {
      constexpr std::size_t kAhead = 24;
      for (std::size_t i = 0; i < kBatchKeys; ++i) {
        if (i + kAhead < kBatchKeys) __builtin_prefetch(batch.rows[i + kAhead]);
        std::memcpy(&out_[i * kRowDim], batch.rows[i], kRowDim * sizeof(float));
      }
    });
  }

 private:
  static constexpr std::size_t kRowDim = 4;
  static constexpr std::size_t kBatches = 12;

  struct Batch {
    std::vector<Key> keys;
    std::vector<const float*> rows;
  };

  const std::size_t rows_;
  ps::store::RowBudget budget_{0};
  std::unique_ptr<EmbeddingStore> store_;
  std::mt19937_64 random_{3};
  std::array<Batch, kBatches> batches_;
  std::vector<float> out_;
};

void Report(const std::string& what, const std::vector<double>& ratios,
            const std::vector<double>& costs, const char* floor, const char* aim) {
  char measured[96];
  std::snprintf(measured, sizeof(measured), "%.2fx (%.2f to %.2f), %.1f ns", Median(ratios),
                Quantile(ratios, 0.1), Quantile(ratios, 0.9), 1e9 * Median(costs));
  Bar(what, measured, floor, aim);
}

void CostPerRow(benchmark::State& state) {
  static Table small(1'000'000);
  Table large(static_cast<std::size_t>(state.range(0)) * 1'000'000);
  small.Draw();
  large.Draw();
  std::vector<double> costs, ratios, known_costs, known_ratios;
  std::size_t turn = 0;
  for (auto _ : state) {
    costs.push_back(large.SecondsOfGather(turn) / kBatchKeys);
    ratios.push_back(costs.back() * kBatchKeys / small.SecondsOfGather(turn));
    known_costs.push_back(large.SecondsOfKnown(turn) / kBatchKeys);
    known_ratios.push_back(known_costs.back() * kBatchKeys / small.SecondsOfKnown(turn));
    state.SetIterationTime(costs.back() * kBatchKeys);
    ++turn;
  }
  const std::string rows = std::to_string(state.range(0)) + " M rows, against 1 M";
  Report("cost of a gathered row (dim 4) at " + rows, ratios, costs, "2.5x", "2x");
  Report("the same where addresses are known, at " + rows, known_ratios, known_costs, "", "");
}
BENCHMARK(CostPerRow)
    ->ArgName("millions")
    ->Arg(10)
    ->Arg(100)
    ->Iterations(60)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
