#pragma once

#include "ps/optimizers/optimizer.h"

namespace ps::optimizers {

// Adagrad (Duchi, Hazan, Singer 2011), element-wise:
//   g'   = g + weight_decay * p
//   acc += g'^2                                    acc_0 = initial_accumulator
//   p   -= learning_rate * g' / (sqrt(acc) + epsilon)
// State: acc[dim]. Parameters: learning_rate .01, epsilon 1e-10, initial_accumulator .1,
// weight_decay 0.
class Adagrad final : public Optimizer {
 public:
  static Result<std::unique_ptr<Optimizer>> Create(const OptimizerConfig& config);

  std::size_t StateFloats(std::size_t dim) const override { return dim; }
  std::vector<StatePart> StateParts(std::size_t dim) const override { return {{"acc", dim}}; }
  void InitState(std::span<const float> values, std::span<float> state) const override;
  void Apply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
             float rate_scale) const override;
  void Decay(float* const* rows, std::size_t n, std::size_t dim, float factor) const override;

 private:
  explicit Adagrad(OptimizerConfig config);

  const float learning_rate_;
  const float epsilon_;
  const float initial_accumulator_;
  const float weight_decay_;
};

}  // namespace ps::optimizers
