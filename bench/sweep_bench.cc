// Decay and prune of all rows in process, in turns with memcpy of as many bytes as the rows take.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "bench/huge_pages.h"
#include "bench/store_world.h"
#include "bench/turns.h"
#include "ps/store/row_layout.h"

namespace {

using namespace ps::bench;

World& TheWorld() {
  static World world(RowsOfTable(), false);
  return world;
}

// memcpy of the bytes of one shard's rows, through buffers larger than any cache.
class Copier {
 public:
  explicit Copier(std::size_t bytes) : bytes_(bytes) {
    for (auto& b : buffers_) b.assign(kBuffer, 1);
  }
  void operator()(int s) {
    for (std::size_t done = 0; done < bytes_; done += kBuffer) {
      std::memcpy(buffers_[2 * s].data(), buffers_[2 * s + 1].data(),
                  std::min(kBuffer, bytes_ - done));
    }
  }

 private:
  static constexpr std::size_t kBuffer = std::size_t{192} << 20;
  const std::size_t bytes_;
  std::array<HugeVector<char>, 2 * kShards> buffers_;
};

std::size_t BytesOfShard(const World& world) {
  return world.rows() / kShards * ps::store::RowStrideBytes(kDim, kDim);
}

void Decay(benchmark::State& state) {
  World& world = TheWorld();
  Crew crew(static_cast<int>(state.range(0)));
  Copier copy(BytesOfShard(world));
  Turns turns;
  const auto rows = static_cast<double>(world.rows());
  for (auto _ : state) {
    const double ours = crew.Run([&](int s) { world.shard(s).DecayStep(0.999f, 0); });
    turns.Add("decay", ours, rows);
    turns.Add("memcpy", crew.Run([&](int s) { copy(s); }), rows);
    state.SetIterationTime(ours);
  }
  turns.Report(state);
  turns.ReportBar(
      "decay of all rows, " + std::to_string(state.range(0)) + " threads, against memcpy", "memcpy",
      "30 %", "60 %", true);
}
BENCHMARK(Decay)
    ->ArgNames({"threads"})
    ->Arg(2)
    ->Arg(1)
    ->Iterations(7)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

void PruneNothing(benchmark::State& state) {
  World& world = TheWorld();
  Crew crew(static_cast<int>(state.range(0)));
  Copier copy(BytesOfShard(world));
  Turns turns;
  const auto rows = static_cast<double>(world.rows());
  for (auto _ : state) {
    std::array<std::uint64_t, kShards> pruned{};
    const double ours = crew.Run([&](int s) { world.shard(s).PruneStep(0.0f, 0, &pruned[s]); });
    turns.Add("prune", ours, rows);
    turns.Add("memcpy", crew.Run([&](int s) { copy(s); }), rows);
    state.SetIterationTime(ours);
  }
  turns.Report(state);
  turns.ReportBar("prune of all rows, none goes, against memcpy", "memcpy", "30 %", "60 %", true);
}
BENCHMARK(PruneNothing)
    ->ArgNames({"threads"})
    ->Arg(2)
    ->Iterations(7)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

// Takes out every row; a world of its own for each turn, of at most 4 M rows.
void PruneAll(benchmark::State& state) {
  Crew crew(2);
  Turns turns;
  for (auto _ : state) {
    World world(std::min<std::size_t>(RowsOfTable(), 4'000'000), false);
    Copier copy(BytesOfShard(world));
    const auto rows = static_cast<double>(world.rows());
    std::array<std::uint64_t, kShards> pruned{};
    const double ours = crew.Run([&](int s) { world.shard(s).PruneStep(1e9f, 0, &pruned[s]); });
    if (pruned[0] + pruned[1] != world.rows()) state.SkipWithError("rows were left");
    turns.Add("prune", ours, rows);
    turns.Add("memcpy", crew.Run([&](int s) { copy(s); }), rows);
    state.SetIterationTime(ours);
  }
  turns.Report(state);
  turns.ReportBar("prune of all rows, all go, against memcpy", "memcpy", "30 %", "60 %", true);
}
BENCHMARK(PruneAll)->Iterations(3)->UseManualTime()->Unit(benchmark::kMillisecond);

}  // namespace
