#include "ps/optimizers/adagrad.h"

#include <algorithm>

#include "ps/optimizers/parameters.h"
#include "ps/optimizers/scale_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ps/optimizers/adagrad.cc"
#include <hwy/foreach_target.h>  // compiles this file once for each SIMD target

#include <hwy/highway.h>

#include "ps/optimizers/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ps::optimizers {
namespace HWY_NAMESPACE {
namespace {

struct AdagradKernel {
  float rate;
  float epsilon;
  float weight_decay;

  HWY_INLINE NoRowData StartRow(const float*, std::size_t) const { return {}; }

  template <class D>
  HWY_INLINE void Step(D d, NoRowData, const float* grad, float* values, std::size_t dim) const {
    float* const acc_at = values + dim;
    const auto p = hn::LoadU(d, values);
    const auto g = hn::MulAdd(hn::Set(d, weight_decay), p, hn::LoadU(d, grad));
    const auto acc = hn::MulAdd(g, g, hn::LoadU(d, acc_at));
    const auto step =
        hn::Div(hn::Mul(hn::Set(d, rate), g), hn::Add(hn::Sqrt(acc), hn::Set(d, epsilon)));
    hn::StoreU(acc, d, acc_at);
    hn::StoreU(hn::Sub(p, step), d, values);
  }
};

void AdagradApply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
                  float rate, float epsilon, float weight_decay) {
  UpdateRows(AdagradKernel{rate, epsilon, weight_decay}, rows, grads, n, dim);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace ps::optimizers
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ps::optimizers {
namespace {

using Range = ParameterRule::Range;
constexpr ParameterRule kRules[] = {
    {"learning_rate", 0.01, Range::kNotNegative},
    {"epsilon", 1e-10, Range::kPositive},
    {"initial_accumulator", 0.1, Range::kNotNegative},
    {"weight_decay", 0, Range::kNotNegative},
};

HWY_EXPORT(AdagradApply);

}  // namespace

Result<std::unique_ptr<Optimizer>> Adagrad::Create(const OptimizerConfig& config) {
  PS_ASSIGN_OR_RETURN(OptimizerConfig complete, CompleteConfig("adagrad", config, kRules));
  return std::unique_ptr<Optimizer>(new Adagrad(std::move(complete)));
}

Adagrad::Adagrad(OptimizerConfig config)
    : Optimizer(std::move(config)),
      learning_rate_(ParameterOf(this->config(), "learning_rate")),
      epsilon_(ParameterOf(this->config(), "epsilon")),
      initial_accumulator_(ParameterOf(this->config(), "initial_accumulator")),
      weight_decay_(ParameterOf(this->config(), "weight_decay")) {}

void Adagrad::InitState(std::span<const float>, std::span<float> state) const {
  std::fill(state.begin(), state.end(), initial_accumulator_);
}

void Adagrad::Apply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
                    float rate_scale) const {
  HWY_DYNAMIC_DISPATCH(AdagradApply)
  (rows, grads, n, dim, learning_rate_ * rate_scale, epsilon_, weight_decay_);
}

void Adagrad::Decay(float* const* rows, std::size_t n, std::size_t dim, float factor) const {
  ScaleRows(rows, n, dim, factor);
}

}  // namespace ps::optimizers
#endif
