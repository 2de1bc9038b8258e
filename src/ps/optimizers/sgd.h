#pragma once

#include "ps/optimizers/optimizer.h"

namespace ps::optimizers {

// Stochastic gradient descent, with momentum as PyTorch counts it, element-wise:
//   g' = g + weight_decay * p
//   momentum 0:  p -= learning_rate * g'
//   else:        v = momentum * v + (1 - dampening) * g'          v_0 = 0
//                p -= learning_rate * (nesterov ? g' + momentum * v : v)
// State: none, or v[dim]. Parameters: learning_rate .01, momentum .9, weight_decay 0, nesterov
// False (needs momentum > 0 and dampening 0), dampening 0.
class Sgd final : public Optimizer {
 public:
  static Result<std::unique_ptr<Optimizer>> Create(const OptimizerConfig& config);

  std::size_t StateFloats(std::size_t dim) const override { return momentum_ == 0 ? 0 : dim; }
  std::vector<StatePart> StateParts(std::size_t dim) const override;
  void InitState(std::span<const float> values, std::span<float> state) const override;
  void Apply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
             float rate_scale) const override;
  void Decay(float* const* rows, std::size_t n, std::size_t dim, float factor) const override;

 private:
  explicit Sgd(OptimizerConfig config);

  const float learning_rate_;
  const float momentum_;
  const float weight_decay_;
  const float dampening_;
  const bool nesterov_;
};

}  // namespace ps::optimizers
