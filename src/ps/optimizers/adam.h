#pragma once

#include <cstdint>

#include "ps/optimizers/optimizer.h"

namespace ps::optimizers {

// beta^t for t = 0 .. 2^24 from two small tables (beta^t = beta^(t mod 1024) * beta^(1024 * (t div
// 1024))), in double; 0 where the power is below 2^-60. Immutable.
class PowerTable {
 public:
  explicit PowerTable(double beta);

  double operator()(std::uint32_t t) const {
    std::uint32_t block = t / kBlock;
    return block < blocks_.size() ? within_[t % kBlock] * blocks_[block] : 0.0;
  }

 private:
  static constexpr std::uint32_t kBlock = 1024;
  std::vector<double> within_;
  std::vector<double> blocks_;
};

// Adam (Kingma, Ba 2015) with decoupled weight decay (Loshchilov, Hutter 2019), element-wise, each
// row with a step counter of its own:
//   t  = t + 1                                     t_0 = 0
//   m  = beta1 * m + (1 - beta1) * g               m_0 = 0
//   v  = beta2 * v + (1 - beta2) * g^2             v_0 = 0
//   m^ = m / (1 - beta1^t),   v^ = v / (1 - beta2^t)
//   amsgrad: vmax = max(vmax, v^), v^ = vmax       vmax_0 = 0
//   p -= learning_rate * m^ / (sqrt(v^) + epsilon) + learning_rate * weight_decay * p
// State: m[dim], v[dim], vmax[dim] with amsgrad only, step[1] (t, exact up to 2^24, where it stays;
// both corrections are 1 long before). Parameters: learning_rate .001, beta1 .9, beta2 .999,
// epsilon 1e-8, weight_decay 0, amsgrad False.
class Adam final : public Optimizer {
 public:
  static Result<std::unique_ptr<Optimizer>> Create(const OptimizerConfig& config);

  std::size_t StateFloats(std::size_t dim) const override { return (amsgrad_ ? 3 : 2) * dim + 1; }
  std::vector<StatePart> StateParts(std::size_t dim) const override;
  void InitState(std::span<const float> values, std::span<float> state) const override;
  void Apply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
             float rate_scale) const override;
  void Decay(float* const* rows, std::size_t n, std::size_t dim, float factor) const override;

 private:
  explicit Adam(OptimizerConfig config);

  const float learning_rate_;
  const float beta1_;
  const float beta2_;
  const float one_minus_beta1_;  // rounded once: 1 - .999f is off by 1.3e-5 of itself
  const float one_minus_beta2_;
  const float epsilon_;
  const float weight_decay_;
  const bool amsgrad_;
  const PowerTable beta1_powers_;
  const PowerTable beta2_powers_;
};

}  // namespace ps::optimizers
