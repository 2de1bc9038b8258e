#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ps/base/status.h"

namespace ps::optimizers {

// Name ("sgd", "adam", "adagrad", "ftrl", any case) and hyper-parameters as users write them.
// Booleans are 0 and 1. Parameters left out take the contract's defaults.
struct OptimizerConfig {
  std::string name;
  std::map<std::string, double> params;

  bool operator==(const OptimizerConfig&) const = default;
};

// One optimizer with its hyper-parameters; immutable, thread-safe, holds no per-row state.
//
// A row lies contiguously in memory: values[dim] followed by state[StateFloats(dim)], float32.
// The same code serves embedding rows (dim 1..65,536) and chunks of dense tensors (dim = floats of
// the chunk). Formulas stand at the head of each optimizer's file; results agree with an
// element-wise IEEE float32 evaluation to rounding, whatever SIMD width runs.
class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // Validates name and parameters: unknown ones, negative rates, NaN ... are InvalidArgument naming
  // parameter, value and what is allowed.
  static Result<std::unique_ptr<Optimizer>> Create(const OptimizerConfig& config);

  // Canonical lower-case name and every parameter, defaults filled in.
  const OptimizerConfig& config() const { return config_; }

  // Floats of state that follow `dim` values. 0 for SGD without momentum.
  virtual std::size_t StateFloats(std::size_t dim) const = 0;

  // Names and widths of the state's parts in memory order, e.g. adam: {"m", dim}, {"v", dim},
  // {"step", 1}. Widths add up to StateFloats(dim). Checkpoint columns carry these names.
  struct StatePart {
    std::string name;
    std::size_t floats;
  };
  virtual std::vector<StatePart> StateParts(std::size_t dim) const = 0;

  // Writes the state of a row that has just got its values (new, set, or loaded without states).
  virtual void InitState(std::span<const float> values, std::span<float> state) const = 0;

  // Applies n gradients to n rows: rows[i] points at the values (state behind them), grads[i] at
  // dim floats. Rows are distinct; no pointer needs an alignment beyond that of float. `rate_scale`
  // multiplies the learning rate of this call (schedules); 1 = as configured.
  virtual void Apply(float* const* rows, const float* const* grads, std::size_t n, std::size_t dim,
                     float rate_scale) const = 0;

  // Multiplies the values of n rows by factor, 0 < factor <= 1. State stays, save FTRL's z, which
  // becomes the z that yields factor * p (contract section 4).
  virtual void Decay(float* const* rows, std::size_t n, std::size_t dim, float factor) const = 0;

 protected:
  explicit Optimizer(OptimizerConfig config) : config_(std::move(config)) {}

 private:
  OptimizerConfig config_;
};

}  // namespace ps::optimizers
