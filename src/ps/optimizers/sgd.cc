#include "ps/optimizers/sgd.h"

#include <algorithm>

#include "ps/optimizers/parameters.h"
#include "ps/optimizers/scale_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ps/optimizers/sgd.cc"
#include <hwy/foreach_target.h>  // compiles this file once for each SIMD target

#include <hwy/highway.h>

#include "ps/optimizers/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ps::optimizers {
namespace HWY_NAMESPACE {
namespace {

struct PlainSgdKernel {
  float rate;
  float weight_decay;

  HWY_INLINE NoRowData StartRow(const float*, std::size_t) const { return {}; }

  template <class D>
  HWY_INLINE void Step(D d, NoRowData, const float* grad, float* values, std::size_t) const {
    const auto p = hn::LoadU(d, values);
    const auto g = hn::MulAdd(hn::Set(d, weight_decay), p, hn::LoadU(d, grad));
    hn::StoreU(hn::NegMulAdd(hn::Set(d, rate), g, p), d, values);
  }
};

template <bool kNesterov>
struct MomentumKernel {
  float rate;
  float weight_decay;
  float momentum;
  float grad_share;  // 1 - dampening

  HWY_INLINE NoRowData StartRow(const float*, std::size_t) const { return {}; }

  template <class D>
  HWY_INLINE void Step(D d, NoRowData, const float* grad, float* values, std::size_t dim) const {
    float* const v_at = values + dim;
    const auto p = hn::LoadU(d, values);
    const auto m = hn::Set(d, momentum);
    const auto g = hn::MulAdd(hn::Set(d, weight_decay), p, hn::LoadU(d, grad));
    const auto v = hn::MulAdd(m, hn::LoadU(d, v_at), hn::Mul(hn::Set(d, grad_share), g));
    const auto step = kNesterov ? hn::MulAdd(m, v, g) : v;
    hn::StoreU(v, d, v_at);
    hn::StoreU(hn::NegMulAdd(hn::Set(d, rate), step, p), d, values);
  }
};

void PlainSgdApply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
                   float rate, float weight_decay) {
  UpdateRows(PlainSgdKernel{rate, weight_decay}, rows, grads, n, dim);
}

void MomentumApply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
                   float rate, float weight_decay, float momentum, float grad_share,
                   bool nesterov) {
  if (nesterov) {
    UpdateRows(MomentumKernel<true>{rate, weight_decay, momentum, grad_share}, rows, grads, n, dim);
  } else {
    UpdateRows(MomentumKernel<false>{rate, weight_decay, momentum, grad_share}, rows, grads, n,
               dim);
  }
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
    {"momentum", 0.9, Range::kUnit},
    {"weight_decay", 0, Range::kNotNegative},
    {"nesterov", 0, Range::kBoolean},
    {"dampening", 0, Range::kUnit},
};

HWY_EXPORT(PlainSgdApply);
HWY_EXPORT(MomentumApply);

}  // namespace

Result<std::unique_ptr<Optimizer>> Sgd::Create(const OptimizerConfig& config) {
  PS_ASSIGN_OR_RETURN(OptimizerConfig complete, CompleteConfig("sgd", config, kRules));
  if (complete.params["nesterov"] != 0 &&
      (ParameterOf(complete, "momentum") == 0 || complete.params["dampening"] != 0)) {
    return InvalidArgument(
        "optimizer 'sgd': parameter 'nesterov' needs momentum > 0 and dampening 0; momentum is " +
        std::to_string(complete.params["momentum"]) + ", dampening is " +
        std::to_string(complete.params["dampening"]));
  }
  return std::unique_ptr<Optimizer>(new Sgd(std::move(complete)));
}

Sgd::Sgd(OptimizerConfig config)
    : Optimizer(std::move(config)),
      learning_rate_(ParameterOf(this->config(), "learning_rate")),
      momentum_(ParameterOf(this->config(), "momentum")),
      weight_decay_(ParameterOf(this->config(), "weight_decay")),
      dampening_(ParameterOf(this->config(), "dampening")),
      nesterov_(ParameterOf(this->config(), "nesterov") != 0) {}

std::vector<Optimizer::StatePart> Sgd::StateParts(std::size_t dim) const {
  if (momentum_ == 0) return {};
  return {{"v", dim}};
}

void Sgd::InitState(std::span<const float>, std::span<float> state) const {
  std::fill(state.begin(), state.end(), 0.0f);
}

void Sgd::Apply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
                float rate_scale) const {
  float rate = learning_rate_ * rate_scale;
  if (momentum_ == 0) {
    HWY_DYNAMIC_DISPATCH(PlainSgdApply)(rows, grads, n, dim, rate, weight_decay_);
  } else {
    HWY_DYNAMIC_DISPATCH(MomentumApply)
    (rows, grads, n, dim, rate, weight_decay_, momentum_, 1.0f - dampening_, nesterov_);
  }
}

void Sgd::Decay(float* const* rows, std::size_t n, std::size_t dim, float factor) const {
  ScaleRows(rows, n, dim, factor);
}

}  // namespace ps::optimizers
#endif
