#pragma once

#include "ps/optimizers/optimizer.h"

namespace ps::optimizers {

// FTRL-Proximal (McMahan et al. 2013), element-wise. With q(n) = n^(-learning_rate_power):
//   n_new = n + g^2                                n_0 = 0
//   sigma = (q(n_new) - q(n)) / alpha
//   z    += g - sigma * p
//   p     = 0 where |z| <= l1, else -(z - sign(z) * l1) / D(n_new)
//   D(n)  = l2 + (beta + q(n)) / alpha
// State: z[dim], n[dim]. Parameters: alpha .05 (also called learning_rate; both: error), beta 1,
// l1 0, l2 0, learning_rate_power -0.5.
//
// z_0 is the z that yields the p that the row starts with: -(sign(p) * l1 + p * D(0)), 0 where p =
// 0.
//
// Where p != 0, z is a function of p: z = -(sign(p) * l1 + p * D(n)). So sigma drops out, since
// D(n) + sigma = D(n_new), and the update is computed as
//   z = g - sign(p) * l1 - p * D(n_new)  where p != 0,   z + g  where p = 0
// which is the same number, and stays right when alpha moves (a schedule, another alpha after a
// load): from z alone, halving alpha would halve every weight.
//
// A rate of 0 changes nothing. Where D(n_new) = 0 (beta, l2, n and g all 0) p stays. n ends at
// 1e30.
class Ftrl final : public Optimizer {
 public:
  static Result<std::unique_ptr<Optimizer>> Create(const OptimizerConfig& config);

  std::size_t StateFloats(std::size_t dim) const override { return 2 * dim; }
  std::vector<StatePart> StateParts(std::size_t dim) const override {
    return {{"z", dim}, {"n", dim}};
  }
  void InitState(std::span<const float> values, std::span<float> state) const override;
  void Apply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
             float rate_scale) const override;
  void Decay(float* const* rows, std::size_t n, std::size_t dim, float factor) const override;

 private:
  explicit Ftrl(OptimizerConfig config);

  const float alpha_;
  const float beta_;
  const float l1_;
  const float l2_;
  const float exponent_;  // -learning_rate_power
};

}  // namespace ps::optimizers
