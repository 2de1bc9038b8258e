#include "ps/optimizers/parameters.h"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <vector>

#include "ps/base/nearest_name.h"

namespace ps::optimizers {
namespace {

using Range = ParameterRule::Range;

bool Allows(Range range, double value) {
  float single = static_cast<float>(value);  // what the rows are updated with
  if (!std::isfinite(value) || !std::isfinite(single)) return false;
  switch (range) {
    case Range::kNotNegative:
      return value >= 0;
    case Range::kPositive:
      return single > 0;
    case Range::kNotPositive:
      return value <= 0;
    case Range::kBelowOne:
      return value >= 0 && single < 1;
    case Range::kUnit:
      return value >= 0 && value <= 1;
    case Range::kBoolean:
      return value == 0 || value == 1;
  }
  return false;
}

const char* RangeText(Range range) {
  switch (range) {
    case Range::kNotNegative:
      return "a finite number >= 0";
    case Range::kPositive:
      return "a finite number > 0";
    case Range::kNotPositive:
      return "a finite number <= 0";
    case Range::kBelowOne:
      return "a number >= 0 and < 1";
    case Range::kUnit:
      return "a number from 0 to 1";
    case Range::kBoolean:
      return "False or True (0 or 1)";
  }
  return "";
}

Status UnknownParameter(std::string_view optimizer, const std::string& parameter,
                        std::span<const ParameterRule> rules) {
  std::vector<std::string_view> names;
  for (const ParameterRule& rule : rules) names.push_back(rule.name);
  std::ostringstream text;
  text << "optimizer '" << optimizer << "' has no parameter '" << parameter << "'";
  std::string nearest = NearestName(parameter, names);
  if (!nearest.empty()) text << "; did you mean '" << nearest << "'?";
  text << "; allowed:";
  for (std::string_view name : names) text << (name == names.front() ? " " : ", ") << name;
  return InvalidArgument(text.str());
}

}  // namespace

Result<OptimizerConfig> CompleteConfig(std::string_view name, const OptimizerConfig& config,
                                       std::span<const ParameterRule> rules) {
  OptimizerConfig complete{std::string(name), {}};
  for (const ParameterRule& rule : rules) {
    complete.params.emplace(rule.name, rule.default_value);
  }
  for (const auto& [parameter, value] : config.params) {
    auto rule = std::ranges::find(rules, parameter, &ParameterRule::name);
    if (rule == rules.end()) return UnknownParameter(name, parameter, rules);
    if (!Allows(rule->range, value)) {
      std::ostringstream text;
      text << "optimizer '" << name << "': parameter '" << parameter << "' is " << value
           << "; allowed: " << RangeText(rule->range);
      return InvalidArgument(text.str());
    }
    complete.params[parameter] = value;
  }
  return complete;
}

}  // namespace ps::optimizers
