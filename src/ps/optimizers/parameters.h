#pragma once

#include <span>
#include <string_view>

#include "ps/base/status.h"
#include "ps/optimizers/optimizer.h"

namespace ps::optimizers {

// One hyper-parameter: its contract default and the values allowed. Every value must be finite as a
// float32 as well.
struct ParameterRule {
  enum class Range { kNotNegative, kPositive, kNotPositive, kBelowOne, kUnit, kBoolean };

  std::string_view name;
  double default_value;
  Range range;
};

// `config` under the canonical `name`, defaults filled in. Refuses, as InvalidArgument, parameters
// without a rule (suggesting the nearest name) and values outside their range.
Result<OptimizerConfig> CompleteConfig(std::string_view name, const OptimizerConfig& config,
                                       std::span<const ParameterRule> rules);

// The value of a parameter of a completed config.
inline float ParameterOf(const OptimizerConfig& config, const char* name) {
  return static_cast<float>(config.params.at(name));
}

}  // namespace ps::optimizers
