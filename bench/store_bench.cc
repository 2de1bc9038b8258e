// The hot path of one server in process: gather and Adagrad apply, each measured in turns with what
// it is held against, batch by batch in one run, and reported as the median ratio.
//
//   vs_ceiling  speed against a gather of the same rows whose addresses are known
//   vs_cuckoo   speed against libcuckoo on the same keys, its tables in huge pages as well
//
// 20,000,000 rows take 9 GB. Two threads serve two shards; one serves both when `threads:1`.
#include <benchmark/benchmark.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "bench/cuckoo_table.h"
#include "bench/store_world.h"
#include "bench/turns.h"

namespace {

using namespace ps::bench;

World& TheWorld() {
  static World world(RowsOfTable());
  static const bool reported = (world.ReportSizes(), true);
  (void)reported;
  return world;
}

void GatherKnown(const ShardBatch& share, float* out) {
  constexpr std::size_t kAhead = 24;
  const std::size_t n = share.rows.size();
  for (std::size_t i = 0; i < n; ++i) {
    if (i + kAhead < n) {
      __builtin_prefetch(share.rows[i + kAhead]);
      __builtin_prefetch(share.rows[i + kAhead] + kDim - 1);
    }
    std::memcpy(out + i * kDim, share.rows[i], kDim * sizeof(float));
  }
}

// Runs `work(batch, shard)` over a few batches; the seconds for all of them.
double RunTurn(Crew* crew, const std::vector<Batch>& batches, std::size_t first,
               const std::function<void(const ShardBatch&, int)>& work) {
  return crew->Run([&](int s) {
    for (std::size_t b = 0; b < kBatchesPerTurn; ++b) {
      work(batches[(first + b) % batches.size()][s], s);
    }
  });
}

double RowsOfTurn(const std::vector<Batch>& batches, std::size_t first) {
  std::size_t rows = 0;
  for (std::size_t b = 0; b < kBatchesPerTurn; ++b) {
    for (const ShardBatch& share : batches[(first + b) % batches.size()]) rows += share.keys.size();
  }
  return static_cast<double>(rows);
}

std::string NameOf(const benchmark::State& state) {
  return std::string(state.range(0) != 0 ? ", Zipf 1.05, " : ", uniform, ") +
         (state.range(1) == 1 ? "1 thread" : "2 threads");
}

void Gather(benchmark::State& state) {
  World& world = TheWorld();
  Crew crew(static_cast<int>(state.range(1)));
  const std::vector<Batch> batches = world.Batches(state.range(0) != 0, false);
  Turns turns;
  std::size_t first = 0;
  for (auto _ : state) {
    const double rows = RowsOfTurn(batches, first);
    const double ours = RunTurn(&crew, batches, first, [&](const ShardBatch& share, int s) {
      world.shard(s).Gather(share.keys, nullptr, false, nullptr, world.out(s));
    });
    turns.Add("gather", ours, rows);
    turns.Add("ceiling",
              RunTurn(&crew, batches, first,
                      [&](const ShardBatch& share, int s) { GatherKnown(share, world.out(s)); }),
              rows);
    turns.Add("cuckoo",
              RunTurn(&crew, batches, first,
                      [&](const ShardBatch& share, int s) {
                        GatherCuckoo(world.values(), share.keys, world.out(s));
                      }),
              rows);
    state.SetIterationTime(ours);
    first += kBatchesPerTurn;
  }
  turns.Report(state);
  const std::string what = "gather" + NameOf(state);
  turns.ReportBar(what + ", against the known-index gather", "ceiling", "25 %", "50 %", true);
  turns.ReportBar(what + ", against libcuckoo find + copy", "cuckoo", "3x", "6x", false);
}
BENCHMARK(Gather)
    ->ArgNames({"zipf", "threads"})
    ->ArgsProduct({{0, 1}, {2, 1}})
    ->Iterations(25)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

void Apply(benchmark::State& state) {
  World& world = TheWorld();
  Crew crew(static_cast<int>(state.range(1)));
  const std::vector<Batch> batches = world.Batches(state.range(0) != 0, true);
  Turns turns;
  std::size_t first = 0;
  for (auto _ : state) {
    const double rows = RowsOfTurn(batches, first);
    const double ours = RunTurn(&crew, batches, first, [&](const ShardBatch& share, int s) {
      std::size_t reserved = 0;
      world.shard(s).Apply(share.keys, nullptr, world.grads(s), 1.0f, &reserved);
    });
    turns.Add("apply", ours, rows);
    turns.Add("cuckoo",
              RunTurn(&crew, batches, first,
                      [&](const ShardBatch& share, int s) {
                        ApplyCuckoo(&world.values(), &world.states(), share.keys, world.grads(s));
                      }),
              rows);
    turns.Add("cuckoo_in_place",
              RunTurn(&crew, batches, first,
                      [&](const ShardBatch& share, int s) {
                        ApplyCuckooInPlace(&world.values(), &world.states(), share.keys,
                                           world.grads(s));
                      }),
              rows);
    state.SetIterationTime(ours);
    first += kBatchesPerTurn;
  }
  turns.Report(state);
  const std::string what = "Adagrad apply" + NameOf(state);
  turns.ReportBar(what + ", against libcuckoo, value and state in two tables", "cuckoo", "8x",
                  "12x", false);
  turns.ReportBar(what + ", against the same changed in place", "cuckoo_in_place", "", "", false);
}
BENCHMARK(Apply)
    ->ArgNames({"zipf", "threads"})
    ->ArgsProduct({{0, 1}, {2, 1}})
    ->Iterations(25)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
