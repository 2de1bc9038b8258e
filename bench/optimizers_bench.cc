// Optimizer updates of rows that lie in the cache: what one Apply call costs beyond memory.
// Rows as the store keeps them (header + values + state), 2,048 of them, dim 16 unless named.
#include <cstddef>
#include <memory>
#include <vector>

#include <benchmark/benchmark.h>

#include "ps/base/random.h"
#include "ps/optimizers/optimizer.h"
#include "ps/store/row_layout.h"

namespace ps::optimizers {
namespace {

constexpr std::size_t kRows = 2'048;

void Apply(benchmark::State& state, const OptimizerConfig& config, std::size_t dim) {
  std::unique_ptr<Optimizer> optimizer = std::move(Optimizer::Create(config)).value();
  std::size_t stride_floats =
      store::RowStrideBytes(dim, optimizer->StateFloats(dim)) / sizeof(float);
  constexpr std::size_t kHeaderFloats = sizeof(store::RowHeader) / sizeof(float);
  std::vector<float> memory(kRows * stride_floats), grads(kRows * dim);
  std::vector<float*> rows;
  std::vector<const float*> grad_of_row;
  FillInitial({InitKind::kNormal, 1e-3f}, 1, 1, 1, 0, grads);
  for (std::size_t r = 0; r < kRows; ++r) {
    rows.push_back(memory.data() + r * stride_floats + kHeaderFloats);
    std::span<float> values(rows.back(), dim);
    FillInitial({InitKind::kNormal, 0.01f}, 1, 2, r, 0, values);
    optimizer->InitState(values, {rows.back() + dim, optimizer->StateFloats(dim)});
    grad_of_row.push_back(grads.data() + r * dim);
  }
  for (auto _ : state) {
    optimizer->Apply(rows.data(), grad_of_row.data(), kRows, dim, 1.0f);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(kRows));
}

BENCHMARK_CAPTURE(Apply, sgd_plain, {"sgd", {{"momentum", 0}}}, 16);
BENCHMARK_CAPTURE(Apply, sgd_momentum, {"sgd", {}}, 16);
BENCHMARK_CAPTURE(Apply, adam, {"adam", {}}, 16);
BENCHMARK_CAPTURE(Apply, adam_amsgrad, {"adam", {{"amsgrad", 1}}}, 16);
BENCHMARK_CAPTURE(Apply, ftrl, {"ftrl", {}}, 16);
BENCHMARK_CAPTURE(Apply, ftrl_power_08, {"ftrl", {{"learning_rate_power", -.8}}}, 16);
BENCHMARK_CAPTURE(Apply, adagrad, {"adagrad", {}}, 16);
BENCHMARK_CAPTURE(Apply, adagrad_dim_4, {"adagrad", {}}, 4);
BENCHMARK_CAPTURE(Apply, adagrad_dim_8, {"adagrad", {}}, 8);
BENCHMARK_CAPTURE(Apply, adagrad_dim_10, {"adagrad", {}}, 10);
BENCHMARK_CAPTURE(Apply, adagrad_dim_32, {"adagrad", {}}, 32);
BENCHMARK_CAPTURE(Apply, adagrad_dim_64, {"adagrad", {}}, 64);

// Initial values of new rows.
void Fill(benchmark::State& state, InitKind kind) {
  std::vector<float> row(static_cast<std::size_t>(state.range(0)));
  std::uint64_t key = 0;
  for (auto _ : state) {
    FillInitial({kind, 0.01f}, 1, 2, ++key, 0, row);
    benchmark::DoNotOptimize(row.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * state.range(0));
}

BENCHMARK_CAPTURE(Fill, uniform, InitKind::kUniform)->Arg(4)->Arg(16)->Arg(64);
BENCHMARK_CAPTURE(Fill, normal, InitKind::kNormal)->Arg(4)->Arg(16)->Arg(64);

}  // namespace
}  // namespace ps::optimizers
