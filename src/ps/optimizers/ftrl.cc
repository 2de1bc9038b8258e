#include "ps/optimizers/ftrl.h"

#include <algorithm>
#include <cmath>

#include "ps/optimizers/parameters.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ps/optimizers/ftrl.cc"
#include <hwy/foreach_target.h>  // compiles this file once for each SIMD target

#include <hwy/highway.h>

#include "ps/optimizers/rows-inl.h"

#ifndef PS_OPTIMIZERS_FTRL_TYPES_  // once, not once for each target
#define PS_OPTIMIZERS_FTRL_TYPES_
namespace ps::optimizers {
namespace {

struct FtrlParameters {
  float inverse_alpha;
  float beta;
  float l1;
  float l2;
  float exponent;
  float factor;  // of a decay
};

}  // namespace
}  // namespace ps::optimizers
#endif

HWY_BEFORE_NAMESPACE();
namespace ps::optimizers {
namespace HWY_NAMESPACE {
namespace {

// q(n): the square root, or any other power lane by lane.
template <bool kSquareRoot, class D>
HWY_INLINE hn::Vec<D> Power(D d, hn::Vec<D> n, float exponent) {
  if constexpr (kSquareRoot) {
    return hn::Sqrt(n);
  } else {
    HWY_ALIGN float lanes[hn::MaxLanes(d)];
    hn::Store(n, d, lanes);
    for (std::size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = std::pow(lanes[i], exponent);
    return hn::Load(d, lanes);
  }
}

template <bool kSquareRoot, class D>
HWY_INLINE hn::Vec<D> Denominator(D d, const FtrlParameters& with, hn::Vec<D> n) {
  const auto q = Power<kSquareRoot>(d, n, with.exponent);
  return hn::MulAdd(hn::Add(hn::Set(d, with.beta), q), hn::Set(d, with.inverse_alpha),
                    hn::Set(d, with.l2));
}

// The z that yields p != 0.
template <class D>
HWY_INLINE hn::Vec<D> ZOf(D d, const FtrlParameters& with, hn::Vec<D> p, hn::Vec<D> denominator) {
  return hn::NegMulAdd(p, denominator, hn::Neg(hn::CopySign(hn::Set(d, with.l1), p)));
}

template <bool kSquareRoot>
struct FtrlKernel {
  FtrlParameters with;

  HWY_INLINE NoRowData StartRow(const float*, std::size_t) const { return {}; }

  template <class D>
  HWY_INLINE void Step(D d, NoRowData, const float* grad, float* values, std::size_t dim) const {
    constexpr float kNMax = 1e30f;  // an infinite n would make p NaN
    float* const z_at = values + dim;
    float* const n_at = values + 2 * dim;
    const auto zero = hn::Zero(d);
    const auto l1 = hn::Set(d, with.l1);
    const auto p = hn::LoadU(d, values);
    const auto g = hn::LoadU(d, grad);
    const auto n = hn::Min(hn::MulAdd(g, g, hn::LoadU(d, n_at)), hn::Set(d, kNMax));
    const auto denominator = Denominator<kSquareRoot>(d, with, n);
    const auto z_before =
        hn::IfThenElse(hn::Eq(p, zero), hn::LoadU(d, z_at), ZOf(d, with, p, denominator));
    const auto z = hn::Add(z_before, g);
    const auto moved = hn::Div(hn::Sub(hn::CopySign(l1, z), z), denominator);
    const auto p_new = hn::IfThenZeroElse(hn::Le(hn::Abs(z), l1), moved);
    hn::StoreU(z, d, z_at);
    hn::StoreU(n, d, n_at);
    hn::StoreU(hn::IfThenElse(hn::Eq(denominator, zero), p, p_new), d, values);
  }
};

template <bool kSquareRoot>
struct FtrlDecayKernel {
  FtrlParameters with;

  HWY_INLINE NoRowData StartRow(const float*, std::size_t) const { return {}; }

  template <class D>
  HWY_INLINE void Step(D d, NoRowData, const float*, float* values, std::size_t dim) const {
    float* const z_at = values + dim;
    const auto factor = hn::Set(d, with.factor);
    const auto p = hn::LoadU(d, values);
    const auto z = hn::LoadU(d, z_at);
    const auto denominator = Denominator<kSquareRoot>(d, with, hn::LoadU(d, values + 2 * dim));
    const auto p_new = hn::Mul(p, factor);
    const auto z_new = hn::IfThenElse(hn::Eq(p, hn::Zero(d)), hn::Mul(z, factor),
                                      ZOf(d, with, p_new, denominator));
    hn::StoreU(z_new, d, z_at);
    hn::StoreU(p_new, d, values);
  }
};

void FtrlApply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
               const FtrlParameters& with) {
  if (with.exponent == 0.5f) {
    UpdateRows(FtrlKernel<true>{with}, rows, grads, n, dim);
  } else {
    UpdateRows(FtrlKernel<false>{with}, rows, grads, n, dim);
  }
}

void FtrlDecay(float* const* rows, std::size_t n, std::size_t dim, const FtrlParameters& with) {
  // The kernels read no gradients; the rows stand in for them.
  if (with.exponent == 0.5f) {
    UpdateRows(FtrlDecayKernel<true>{with}, rows, rows, n, dim);
  } else {
    UpdateRows(FtrlDecayKernel<false>{with}, rows, rows, n, dim);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace ps::optimizers
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ps::optimizers {
namespace {

// Below it no value moves perceptibly (a step is at most alpha * |g| / q(n) <= alpha), and 1 /
// alpha would leave the range of float32.
constexpr float kAlphaMin = 1e-20f;

using Range = ParameterRule::Range;
constexpr ParameterRule kRules[] = {
    {"alpha", 0.05, Range::kNotNegative},
    {"learning_rate", 0.05, Range::kNotNegative},  // another name for alpha
    {"beta", 1, Range::kNotNegative},
    {"l1", 0, Range::kNotNegative},
    {"l2", 0, Range::kNotNegative},
    {"learning_rate_power", -0.5, Range::kNotPositive},
};

HWY_EXPORT(FtrlApply);
HWY_EXPORT(FtrlDecay);

}  // namespace

Result<std::unique_ptr<Optimizer>> Ftrl::Create(const OptimizerConfig& config) {
  PS_ASSIGN_OR_RETURN(OptimizerConfig complete, CompleteConfig("ftrl", config, kRules));
  if (config.params.contains("learning_rate")) {
    if (config.params.contains("alpha")) {
      return InvalidArgument(
          "optimizer 'ftrl': parameters 'alpha' and 'learning_rate' are two names for the same; "
          "give "
          "one of them");
    }
    complete.params["alpha"] = complete.params["learning_rate"];
  }
  complete.params.erase("learning_rate");
  return std::unique_ptr<Optimizer>(new Ftrl(std::move(complete)));
}

Ftrl::Ftrl(OptimizerConfig config)
    : Optimizer(std::move(config)),
      alpha_(ParameterOf(this->config(), "alpha")),
      beta_(ParameterOf(this->config(), "beta")),
      l1_(ParameterOf(this->config(), "l1")),
      l2_(ParameterOf(this->config(), "l2")),
      exponent_(-ParameterOf(this->config(), "learning_rate_power")) {}

void Ftrl::InitState(std::span<const float> values, std::span<float> state) const {
  std::size_t dim = values.size();
  float q_of_zero = exponent_ == 0 ? 1.0f : 0.0f;
  float denominator = l2_ + (beta_ + q_of_zero) / std::max(alpha_, kAlphaMin);
  for (std::size_t i = 0; i < dim; ++i) {
    state[i] = values[i] == 0 ? 0.0f : -(std::copysign(l1_, values[i]) + values[i] * denominator);
    state[dim + i] = 0;
  }
}

void Ftrl::Apply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
                 float rate_scale) const {
  float alpha = alpha_ * rate_scale;
  if (alpha < kAlphaMin) return;
  HWY_DYNAMIC_DISPATCH(FtrlApply)
  (rows, grads, n, dim, FtrlParameters{1.0f / alpha, beta_, l1_, l2_, exponent_, 1.0f});
}

void Ftrl::Decay(float* const* rows, std::size_t n, std::size_t dim, float factor) const {
  float alpha = std::max(alpha_, kAlphaMin);
  HWY_DYNAMIC_DISPATCH(FtrlDecay)
  (rows, n, dim, FtrlParameters{1.0f / alpha, beta_, l1_, l2_, exponent_, factor});
}

}  // namespace ps::optimizers
#endif
