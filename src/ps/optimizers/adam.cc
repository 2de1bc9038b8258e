#include "ps/optimizers/adam.h"

#include <algorithm>
#include <cmath>

#include "ps/optimizers/parameters.h"
#include "ps/optimizers/scale_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ps/optimizers/adam.cc"
#include <hwy/foreach_target.h>  // compiles this file once for each SIMD target

#include <hwy/highway.h>

#include "ps/optimizers/rows-inl.h"

#ifndef PS_OPTIMIZERS_ADAM_TYPES_  // once, not once for each target
#define PS_OPTIMIZERS_ADAM_TYPES_
namespace ps::optimizers {
namespace {

struct AdamParameters {
  float rate;
  float beta1;
  float beta2;
  float one_minus_beta1;
  float one_minus_beta2;
  float epsilon;
  float weight_decay;
  const PowerTable* beta1_powers;
  const PowerTable* beta2_powers;
};

}  // namespace
}  // namespace ps::optimizers
#endif

HWY_BEFORE_NAMESPACE();
namespace ps::optimizers {
namespace HWY_NAMESPACE {
namespace {

template <bool kAmsgrad>
struct AdamKernel {
  AdamParameters with;

  struct Row {
    float rate;                // learning rate / (1 - beta1^t)
    float inverse_correction;  // 1 / (1 - beta2^t)
  };

  HWY_INLINE Row StartRow(float* values, std::size_t dim) const {
    constexpr float kStepMax = 16'777'216.0f;  // 2^24: the next integer is not a float
    float* const step_at = values + (kAmsgrad ? 4 : 3) * dim;
    float step = *step_at + 1.0f;
    // A loaded state may hold anything; the comparison is false for NaN too.
    if (!(step >= 1.0f && step <= kStepMax)) step = step > kStepMax ? kStepMax : 1.0f;
    *step_at = step;
    const auto t = static_cast<std::uint32_t>(step);
    return {static_cast<float>(with.rate / (1.0 - (*with.beta1_powers)(t))),
            static_cast<float>(1.0 / (1.0 - (*with.beta2_powers)(t)))};
  }

  template <class D>
  HWY_INLINE void Step(D d, Row row, const float* grad, float* values, std::size_t dim) const {
    float* const m_at = values + dim;
    float* const v_at = values + 2 * dim;
    const auto p = hn::LoadU(d, values);
    const auto g = hn::LoadU(d, grad);
    const auto m = hn::MulAdd(hn::Set(d, with.beta1), hn::LoadU(d, m_at),
                              hn::Mul(hn::Set(d, with.one_minus_beta1), g));
    const auto v = hn::MulAdd(hn::Set(d, with.beta2), hn::LoadU(d, v_at),
                              hn::Mul(hn::Mul(hn::Set(d, with.one_minus_beta2), g), g));
    auto v_hat = hn::Mul(v, hn::Set(d, row.inverse_correction));
    if constexpr (kAmsgrad) {
      float* const v_max_at = values + 3 * dim;
      v_hat = hn::Max(v_hat, hn::LoadU(d, v_max_at));
      hn::StoreU(v_hat, d, v_max_at);
    }
    const auto step = hn::Div(hn::Mul(hn::Set(d, row.rate), m),
                              hn::Add(hn::Sqrt(v_hat), hn::Set(d, with.epsilon)));
    const auto decayed = hn::NegMulAdd(hn::Set(d, with.rate * with.weight_decay), p, p);
    hn::StoreU(m, d, m_at);
    hn::StoreU(v, d, v_at);
    hn::StoreU(hn::Sub(decayed, step), d, values);
  }
};

void AdamApply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
               const AdamParameters& with) {
  UpdateRows(AdamKernel<false>{with}, rows, grads, n, dim);
}

void AmsgradApply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
                  const AdamParameters& with) {
  UpdateRows(AdamKernel<true>{with}, rows, grads, n, dim);
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
    {"learning_rate", 0.001, Range::kNotNegative},
    {"beta1", 0.9, Range::kBelowOne},
    {"beta2", 0.999, Range::kBelowOne},
    {"epsilon", 1e-8, Range::kPositive},
    {"weight_decay", 0, Range::kNotNegative},
    {"amsgrad", 0, Range::kBoolean},
};

HWY_EXPORT(AdamApply);
HWY_EXPORT(AmsgradApply);

}  // namespace

PowerTable::PowerTable(double beta) {
  constexpr std::uint32_t kBlocks = (1u << 24) / kBlock + 1;
  for (std::uint32_t t = 0; t < kBlock; ++t) within_.push_back(std::pow(beta, t));
  for (std::uint32_t block = 0; block < kBlocks; ++block) {
    double power = std::pow(beta, static_cast<double>(block) * kBlock);
    if (power < 0x1p-60) break;
    blocks_.push_back(power);
  }
}

Result<std::unique_ptr<Optimizer>> Adam::Create(const OptimizerConfig& config) {
  PS_ASSIGN_OR_RETURN(OptimizerConfig complete, CompleteConfig("adam", config, kRules));
  return std::unique_ptr<Optimizer>(new Adam(std::move(complete)));
}

Adam::Adam(OptimizerConfig config)
    : Optimizer(std::move(config)),
      learning_rate_(ParameterOf(this->config(), "learning_rate")),
      beta1_(ParameterOf(this->config(), "beta1")),
      beta2_(ParameterOf(this->config(), "beta2")),
      one_minus_beta1_(static_cast<float>(1.0 - this->config().params.at("beta1"))),
      one_minus_beta2_(static_cast<float>(1.0 - this->config().params.at("beta2"))),
      epsilon_(ParameterOf(this->config(), "epsilon")),
      weight_decay_(ParameterOf(this->config(), "weight_decay")),
      amsgrad_(ParameterOf(this->config(), "amsgrad") != 0),
      beta1_powers_(this->config().params.at("beta1")),
      beta2_powers_(this->config().params.at("beta2")) {}

std::vector<Optimizer::StatePart> Adam::StateParts(std::size_t dim) const {
  if (amsgrad_) return {{"m", dim}, {"v", dim}, {"vmax", dim}, {"step", 1}};
  return {{"m", dim}, {"v", dim}, {"step", 1}};
}

void Adam::InitState(std::span<const float>, std::span<float> state) const {
  std::fill(state.begin(), state.end(), 0.0f);
}

void Adam::Apply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
                 float rate_scale) const {
  const AdamParameters with{.rate = learning_rate_ * rate_scale,
                            .beta1 = beta1_,
                            .beta2 = beta2_,
                            .one_minus_beta1 = one_minus_beta1_,
                            .one_minus_beta2 = one_minus_beta2_,
                            .epsilon = epsilon_,
                            .weight_decay = weight_decay_,
                            .beta1_powers = &beta1_powers_,
                            .beta2_powers = &beta2_powers_};
  if (amsgrad_) {
    HWY_DYNAMIC_DISPATCH(AmsgradApply)(rows, grads, n, dim, with);
  } else {
    HWY_DYNAMIC_DISPATCH(AdamApply)(rows, grads, n, dim, with);
  }
}

void Adam::Decay(float* const* rows, std::size_t n, std::size_t dim, float factor) const {
  ScaleRows(rows, n, dim, factor);
}

}  // namespace ps::optimizers
#endif
