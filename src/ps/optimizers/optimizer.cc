#include "ps/optimizers/optimizer.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "ps/base/nearest_name.h"
#include "ps/optimizers/adagrad.h"
#include "ps/optimizers/adam.h"
#include "ps/optimizers/ftrl.h"
#include "ps/optimizers/sgd.h"

namespace ps::optimizers {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"sgd", "adam", "adagrad", "ftrl"};

Status UnknownOptimizer(const std::string& name) {
  std::string text = "optimizer '" + name + "' is not known";
  std::string nearest = NearestName(name, kNames);
  if (!nearest.empty()) text += "; did you mean '" + nearest + "'?";
  return InvalidArgument(text + "; allowed: sgd, adam, adagrad, ftrl (any case)");
}

}  // namespace

Result<std::unique_ptr<Optimizer>> Optimizer::Create(const OptimizerConfig& config) {
  std::string name = config.name;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (name == "sgd") return Sgd::Create(config);
  if (name == "adam") return Adam::Create(config);
  if (name == "adagrad") return Adagrad::Create(config);
  if (name == "ftrl") return Ftrl::Create(config);
  return UnknownOptimizer(config.name);
}

}  // namespace ps::optimizers
