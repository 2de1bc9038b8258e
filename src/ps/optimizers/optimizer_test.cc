#include "ps/optimizers/optimizer.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "ps/optimizers/adam.h"

namespace ps::optimizers {
namespace {

using Params = std::map<std::string, double>;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::unique_ptr<Optimizer> Make(const std::string& name, const Params& params = {}) {
  Result<std::unique_ptr<Optimizer>> made = Optimizer::Create({name, params});
  EXPECT_TRUE(made.ok()) << made.status().ToString();
  return std::move(made).value();
}

std::string MessageOf(const std::string& name, const Params& params) {
  Result<std::unique_ptr<Optimizer>> made = Optimizer::Create({name, params});
  if (made.ok()) return "";
  EXPECT_EQ(made.status().code(), StatusCode::kInvalidArgument);
  return made.status().message();
}

// Runs `body` once on each SIMD target that this machine has and this build contains.
void OnEachTarget(const std::function<void()>& body) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// Rows as the store lays them out, each followed by guard floats, none aligned beyond a float.
class Rows {
 public:
  Rows(const Optimizer& optimizer, std::size_t n, std::size_t dim)
      : optimizer_(optimizer), dim_(dim), stride_(dim + optimizer.StateFloats(dim) + kGuards) {
    floats_.assign(1 + n * stride_, kGuard);
    for (std::size_t r = 0; r < n; ++r) pointers_.push_back(floats_.data() + 1 + r * stride_);
  }

  std::span<float> values(std::size_t r) { return {pointers_[r], dim_}; }
  std::span<float> state(std::size_t r) {
    return {pointers_[r] + dim_, optimizer_.StateFloats(dim_)};
  }
  void Set(std::size_t r, std::span<const float> values) {
    std::copy(values.begin(), values.end(), pointers_[r]);
    optimizer_.InitState(values, state(r));
  }
  void Apply(const std::vector<std::vector<float>>& grads, float rate_scale = 1) {
    std::vector<const float*> grad_pointers;
    for (const auto& grad : grads) grad_pointers.push_back(grad.data());
    optimizer_.Apply(pointers_.data(), grad_pointers.data(), grads.size(), dim_, rate_scale);
  }
  void Decay(float factor) { optimizer_.Decay(pointers_.data(), pointers_.size(), dim_, factor); }
  bool GuardsIntact() const {
    for (std::size_t r = 0; r < pointers_.size(); ++r) {
      const float* end = pointers_[r] + stride_;
      if (!std::all_of(end - kGuards, end, [](float f) { return f == kGuard; })) return false;
    }
    return floats_[0] == kGuard;
  }

 private:
  static constexpr std::size_t kGuards = 3;
  static constexpr float kGuard = -12345.678f;
  const Optimizer& optimizer_;
  const std::size_t dim_;
  const std::size_t stride_;
  std::vector<float> floats_;
  std::vector<float*> pointers_;
};

// One row of one float, set to `value`.
struct One : Rows {
  One(const Optimizer& optimizer, float value) : Rows(optimizer, 1, 1) { Set(0, {&value, 1}); }
  float Push(float grad, float rate_scale = 1) {
    Apply({{grad}}, rate_scale);
    return values(0)[0];
  }
};

// One element by the contract's formulas as they are written there, in double.
class Reference {
 public:
  // `config` outlives the reference.
  Reference(const OptimizerConfig& config, double value) : with_(&config.params), p(value) {
    if (config.name == "sgd") step_ = &Reference::Sgd;
    if (config.name == "adam") step_ = &Reference::Adam;
    if (config.name == "adagrad") {
      step_ = &Reference::Adagrad;
      acc_ = With("initial_accumulator");
    }
    if (config.name == "ftrl") {
      step_ = &Reference::Ftrl;
      double slope = With("l2") + (With("beta") + Q(0)) / With("alpha");
      if (p != 0) z_ = (p > 0 ? -1 : 1) * (With("l1") + std::fabs(p) * slope);
    }
  }

  void Push(double g) { (this->*step_)(g); }

 private:
  void Sgd(double g) {
    double m = With("momentum"), g1 = g + With("weight_decay") * p;
    if (m == 0) {
      p -= With("learning_rate") * g1;
      return;
    }
    v_ = m * v_ + (1 - With("dampening")) * g1;
    p -= With("learning_rate") * (With("nesterov") != 0 ? g1 + m * v_ : v_);
  }

  void Adam(double g) {
    double b1 = With("beta1"), b2 = With("beta2"), lr = With("learning_rate");
    ++t_;
    m_ = b1 * m_ + (1 - b1) * g;
    v_ = b2 * v_ + (1 - b2) * g * g;
    double m_hat = m_ / (1 - std::pow(b1, t_)), v_hat = v_ / (1 - std::pow(b2, t_));
    if (With("amsgrad") != 0) v_hat = v_max_ = std::max(v_max_, v_hat);
    p -= lr * m_hat / (std::sqrt(v_hat) + With("epsilon")) + lr * With("weight_decay") * p;
  }

  void Adagrad(double g) {
    double g1 = g + With("weight_decay") * p;
    acc_ += g1 * g1;
    p -= With("learning_rate") * g1 / (std::sqrt(acc_) + With("epsilon"));
  }

  void Ftrl(double g) {
    double alpha = With("alpha"), l1 = With("l1"), n_old = n_;
    n_ += g * g;
    z_ += g - (Q(n_) - Q(n_old)) / alpha * p;
    double sign = z_ > 0 ? 1 : -1, slope = With("l2") + (With("beta") + Q(n_)) / alpha;
    if (slope == 0) return;  // no z yields p: it stays
    p = std::fabs(z_) <= l1 ? 0 : -(z_ - sign * l1) / slope;
  }

  double With(const char* name) const { return with_->at(name); }

  double Q(double n) { return std::pow(n, -With("learning_rate_power")); }

  const Params* with_;
  void (Reference::*step_)(double) = nullptr;
  double v_ = 0, m_ = 0, v_max_ = 0, acc_ = 0, z_ = 0, n_ = 0;
  int t_ = 0;

 public:
  double p;
};

struct Case {
  std::string name;
  Params params;
};

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {
      {"sgd", {}},
      {"sgd", {{"momentum", 0}}},
      {"sgd", {{"momentum", 0}, {"weight_decay", .1}, {"learning_rate", .3}}},
      {"sgd", {{"momentum", .5}, {"nesterov", 1}, {"weight_decay", .01}}},
      {"sgd", {{"momentum", .8}, {"dampening", .3}, {"learning_rate", .1}}},
      {"adam", {}},
      {"adam", {{"learning_rate", .1}, {"beta1", 0}, {"beta2", .9}, {"epsilon", 1e-3}}},
      {"adam", {{"learning_rate", .05}, {"weight_decay", .1}}},
      {"adam", {{"learning_rate", .05}, {"beta2", .5}, {"amsgrad", 1}, {"weight_decay", .01}}},
      {"adagrad", {}},
      {"adagrad", {{"learning_rate", .5}, {"initial_accumulator", 0}, {"epsilon", 1e-7}}},
      {"adagrad", {{"learning_rate", .1}, {"weight_decay", .2}}},
      {"ftrl", {}},
      {"ftrl", {{"alpha", .3}, {"beta", .1}, {"l1", .05}, {"l2", .02}}},
      {"ftrl", {{"learning_rate", .2}, {"beta", .05}, {"l1", 2}}},
      {"ftrl", {{"alpha", .1}, {"beta", 0}}},
      {"ftrl", {{"alpha", .2}, {"learning_rate_power", -.8}, {"l1", .01}}},
      {"ftrl", {{"alpha", .2}, {"learning_rate_power", 0}, {"l2", .5}}},
  };
  return cases;
}

std::string TextOf(const OptimizerConfig& config) {
  std::string text = config.name;
  for (const auto& [name, value] : config.params) text += " " + name + "=" + std::to_string(value);
  return text;
}

// Some gradients and some initial values are exactly 0.
void ExpectAgreesWithReference(const Optimizer& optimizer, std::size_t n, std::size_t dim,
                               int steps) {
  SCOPED_TRACE(TextOf(optimizer.config()) + ", dim " + std::to_string(dim));
  std::mt19937 random(static_cast<unsigned>(dim));
  std::normal_distribution<float> normal;
  auto draw = [&](float scale) { return random() % 8 == 0 ? 0.0f : scale * normal(random); };

  Rows rows(optimizer, n, dim);
  std::vector<std::vector<Reference>> reference(n);
  std::vector<std::vector<float>> grads(n, std::vector<float>(dim));
  for (std::size_t r = 0; r < n; ++r) {
    std::vector<float> values(dim);
    for (float& value : values) {
      value = draw(0.5f);
      reference[r].emplace_back(optimizer.config(), value);
    }
    rows.Set(r, values);
  }
  for (int step = 0; step < steps; ++step) {
    for (std::size_t r = 0; r < n; ++r) {
      for (std::size_t i = 0; i < dim; ++i) reference[r][i].Push(grads[r][i] = draw(0.3f));
    }
    rows.Apply(grads);
  }
  double worst = 0;
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t i = 0; i < dim; ++i) {
      double expected = reference[r][i].p;
      worst =
          std::max(worst, std::fabs(rows.values(r)[i] - expected) / (0.1 + std::fabs(expected)));
    }
  }
  EXPECT_LE(worst, 2e-5);  // 170 units in the last place, after all steps
  EXPECT_TRUE(rows.GuardsIntact());
}

TEST(Optimizers, AgreeWithTheContractsFormulasInDouble) {
  OnEachTarget([] {
    for (const Case& c : Cases()) {
      std::unique_ptr<Optimizer> optimizer = Make(c.name, c.params);
      for (std::size_t dim : {1, 3, 4, 8, 12, 16, 17, 31, 32, 64, 100}) {
        ExpectAgreesWithReference(*optimizer, 3, dim, 50);
      }
    }
  });
}

TEST(Optimizers, LargestTensorChunkIsOneRow) {
  for (const char* name : {"sgd", "adam", "adagrad", "ftrl"}) {
    ExpectAgreesWithReference(*Make(name), 1, 262'144, 2);
  }
}

TEST(Optimizers, ManyRowsEqualOneAtATime) {
  for (const Case& c : Cases()) {
    std::unique_ptr<Optimizer> optimizer = Make(c.name, c.params);
    Rows together(*optimizer, 9, 5), alone(*optimizer, 9, 5);
    std::vector<std::vector<float>> grads;
    for (std::size_t r = 0; r < 9; ++r) {
      std::vector<float> values(5, 0.1f * static_cast<float>(r));
      together.Set(r, values);
      alone.Set(r, values);
      grads.emplace_back(5, 0.01f * static_cast<float>(r + 1));
    }
    together.Apply(grads);
    for (std::size_t r = 0; r < 9; ++r) {
      float* row = alone.values(r).data();
      const float* grad = grads[r].data();
      optimizer->Apply(&row, &grad, 1, 5, 1);
      EXPECT_TRUE(std::ranges::equal(alone.values(r), together.values(r)));
      EXPECT_TRUE(std::ranges::equal(alone.state(r), together.state(r)));
    }
  }
}

TEST(Optimizers, NoRowsIsNothing) {
  for (const Case& c : Cases()) Make(c.name, c.params)->Apply(nullptr, nullptr, 0, 16, 1);
}

TEST(Optimizers, RateZeroLeavesValuesAsTheyAre) {
  for (const char* name : {"sgd", "adam", "adagrad", "ftrl"}) {
    SCOPED_TRACE(name);
    std::unique_ptr<Optimizer> off = Make(name, {{"learning_rate", 0}});
    std::unique_ptr<Optimizer> on = Make(name);
    for (float value : {0.0f, 0.8f, -1e-3f}) {
      One of_config(*off, value), of_schedule(*on, value);
      for (float grad : {0.5f, -2.0f, 0.0f}) {
        EXPECT_EQ(of_config.Push(grad), value);
        EXPECT_EQ(of_schedule.Push(grad, 0.0f), value);
      }
    }
  }
}

TEST(Optimizers, RateScaleMultipliesTheLearningRate) {
  for (const char* name : {"sgd", "adam", "adagrad", "ftrl"}) {
    SCOPED_TRACE(name);
    std::unique_ptr<Optimizer> half = Make(name, {{"learning_rate", 0.05}});
    std::unique_ptr<Optimizer> whole = Make(name, {{"learning_rate", 0.1}});
    One by_config(*half, 0.7f), by_scale(*whole, 0.7f);
    for (float grad : {0.5f, -0.25f, 0.125f}) {
      EXPECT_NEAR(by_config.Push(grad), by_scale.Push(grad, 0.5f), 1e-6);
    }
  }
}

TEST(Optimizers, HugeFiniteGradientsNeverMakeNaN) {
  for (const Case& c : Cases()) {
    std::unique_ptr<Optimizer> optimizer = Make(c.name, c.params);
    if (c.name == "sgd" || c.params.contains("learning_rate_power")) continue;
    One one(*optimizer, 0.3f);
    for (float grad : {1e25f, -1e25f, 0.1f}) {
      EXPECT_FALSE(std::isnan(one.Push(grad))) << TextOf(optimizer->config());
    }
  }
}

TEST(Optimizers, ZeroGradientOnAFreshRowMovesNothing) {
  for (const Case& c : Cases()) {
    if (c.params.contains("weight_decay")) continue;
    std::unique_ptr<Optimizer> optimizer = Make(c.name, c.params);
    for (float value : {0.0f, 0.3f, -0.3f}) {
      One one(*optimizer, value);
      EXPECT_NEAR(one.Push(0), value, 1e-6) << TextOf(optimizer->config());
    }
  }
}

TEST(Optimizers, DecayScalesValuesAndLeavesOtherState) {
  OnEachTarget([] {
    for (const Case& c : Cases()) {
      if (c.name == "ftrl") continue;
      std::unique_ptr<Optimizer> optimizer = Make(c.name, c.params);
      for (std::size_t dim : {1, 4, 16, 19}) {
        Rows rows(*optimizer, 2, dim);
        std::vector<float> values(dim, 0.75f), grad(dim, 0.2f);
        for (std::size_t r : {0, 1}) rows.Set(r, values);
        rows.Apply({grad, grad});
        std::vector<float> before(rows.values(1).begin(), rows.values(1).end());
        std::vector<float> state(rows.state(1).begin(), rows.state(1).end());
        rows.Decay(0.5f);
        for (std::size_t i = 0; i < dim; ++i) EXPECT_EQ(rows.values(1)[i], 0.5f * before[i]);
        EXPECT_TRUE(std::ranges::equal(rows.state(1), state));
        EXPECT_TRUE(rows.GuardsIntact());
      }
    }
  });
}

TEST(Optimizers, StatePartsAddUpAndCarryTheirNames) {
  auto names = [](const Optimizer& optimizer) {
    std::string text;
    for (const Optimizer::StatePart& part : optimizer.StateParts(8)) {
      text += part.name + ":" + std::to_string(part.floats) + " ";
    }
    return text;
  };
  EXPECT_EQ(names(*Make("sgd")), "v:8 ");
  EXPECT_EQ(names(*Make("sgd", {{"momentum", 0}})), "");
  EXPECT_EQ(names(*Make("adam")), "m:8 v:8 step:1 ");
  EXPECT_EQ(names(*Make("adam", {{"amsgrad", 1}})), "m:8 v:8 vmax:8 step:1 ");
  EXPECT_EQ(names(*Make("adagrad")), "acc:8 ");
  EXPECT_EQ(names(*Make("ftrl")), "z:8 n:8 ");
  for (const Case& c : Cases()) {
    std::unique_ptr<Optimizer> optimizer = Make(c.name, c.params);
    std::size_t floats = 0;
    for (const Optimizer::StatePart& part : optimizer->StateParts(7)) floats += part.floats;
    EXPECT_EQ(floats, optimizer->StateFloats(7));
  }
}

TEST(Optimizers, FreshState) {
  auto state_of = [](const Optimizer& optimizer) {
    One one(optimizer, 0.5f);
    return std::vector<float>(one.state(0).begin(), one.state(0).end());
  };
  EXPECT_EQ(state_of(*Make("sgd")), (std::vector<float>{0}));
  EXPECT_EQ(state_of(*Make("adam")), (std::vector<float>{0, 0, 0}));
  EXPECT_EQ(state_of(*Make("adam", {{"amsgrad", 1}})), (std::vector<float>{0, 0, 0, 0}));
  EXPECT_EQ(state_of(*Make("adagrad")), (std::vector<float>{0.1f}));
  EXPECT_EQ(state_of(*Make("adagrad", {{"initial_accumulator", 2}})), (std::vector<float>{2}));
  // l1 + 0.5 * (l2 + beta / alpha) = 0.25 + 0.5 * (0.5 + 2 / 0.5)
  Params params = {{"alpha", .5}, {"beta", 2}, {"l1", .25}, {"l2", .5}};
  EXPECT_EQ(state_of(*Make("ftrl", params)), (std::vector<float>{-2.5f, 0}));
}

TEST(Create, FillsInTheContractsDefaults) {
  auto params = [](const char* name) { return Make(name)->config().params; };
  EXPECT_EQ(params("sgd"), (Params{{"learning_rate", .01},
                                   {"momentum", .9},
                                   {"weight_decay", 0},
                                   {"nesterov", 0},
                                   {"dampening", 0}}));
  EXPECT_EQ(params("adam"), (Params{{"learning_rate", .001},
                                    {"beta1", .9},
                                    {"beta2", .999},
                                    {"epsilon", 1e-8},
                                    {"weight_decay", 0},
                                    {"amsgrad", 0}}));
  EXPECT_EQ(params("adagrad"), (Params{{"learning_rate", .01},
                                       {"epsilon", 1e-10},
                                       {"initial_accumulator", .1},
                                       {"weight_decay", 0}}));
  EXPECT_EQ(
      params("ftrl"),
      (Params{{"alpha", .05}, {"beta", 1}, {"l1", 0}, {"l2", 0}, {"learning_rate_power", -.5}}));
}

TEST(Create, NamesAreCaseInsensitiveAndCanonical) {
  EXPECT_EQ(Make("AdaGrad")->config().name, "adagrad");
  EXPECT_EQ(Make("FTRL")->config().name, "ftrl");
}

TEST(Create, ItsOwnConfigMakesTheSameAgain) {
  for (const Case& c : Cases()) {
    OptimizerConfig config = Make(c.name, c.params)->config();
    EXPECT_EQ(Make(config.name, config.params)->config(), config);
  }
}

TEST(Create, UnknownNamesAreRefusedWithASuggestion) {
  EXPECT_NE(MessageOf("adagrd", {}).find("did you mean 'adagrad'"), std::string::npos);
  EXPECT_NE(MessageOf("lion", {}).find("allowed: sgd, adam, adagrad, ftrl"), std::string::npos);
  EXPECT_NE(MessageOf("", {}), "");
}

TEST(Create, UnknownParametersAreRefusedWithASuggestion) {
  std::string message = MessageOf("adagrad", {{"learningrate", .1}});
  EXPECT_NE(message.find("'learningrate'"), std::string::npos);
  EXPECT_NE(message.find("did you mean 'learning_rate'"), std::string::npos);
  EXPECT_NE(MessageOf("sgd", {{"beta1", .9}}).find("allowed: learning_rate, momentum"),
            std::string::npos);
  EXPECT_NE(MessageOf("ftrl", {{"epsilon", .9}}), "");
}

TEST(Create, ValuesOutOfRangeAreRefusedByNameAndValue) {
  const std::vector<std::tuple<std::string, std::string, std::vector<double>>> wrong = {
      {"sgd", "learning_rate", {-0.1, kNaN, kInfinity, 1e39}},
      {"sgd", "momentum", {-0.1, 1.1, kNaN}},
      {"sgd", "weight_decay", {-1}},
      {"sgd", "nesterov", {0.5, 2}},
      {"sgd", "dampening", {-0.1, 1.1}},
      {"adam", "beta1", {-0.1, 1, 1.5, 0.999999999999, kNaN}},
      {"adam", "beta2", {-0.1, 1}},
      {"adam", "epsilon", {-1, 0, 1e-60}},
      {"adam", "amsgrad", {-1, 3}},
      {"adagrad", "epsilon", {0}},
      {"adagrad", "initial_accumulator", {-1}},
      {"ftrl", "alpha", {-1, kNaN}},
      {"ftrl", "learning_rate", {-1}},
      {"ftrl", "beta", {-1}},
      {"ftrl", "l1", {-1}},
      {"ftrl", "l2", {-kInfinity}},
      {"ftrl", "learning_rate_power", {0.5, -kInfinity}},
  };
  for (const auto& [name, parameter, values] : wrong) {
    for (double value : values) {
      std::string message = MessageOf(name, {{parameter, value}});
      EXPECT_NE(message.find("'" + parameter + "' is "), std::string::npos)
          << name << " " << parameter << " " << value << ": " << message;
      EXPECT_NE(message.find("allowed: "), std::string::npos);
    }
  }
}

TEST(Sgd, NesterovNeedsMomentumAndNoDampening) {
  EXPECT_NE(MessageOf("sgd", {{"nesterov", 1}, {"momentum", 0}}), "");
  EXPECT_NE(MessageOf("sgd", {{"nesterov", 1}, {"dampening", .1}}), "");
  EXPECT_EQ(MessageOf("sgd", {{"nesterov", 1}}), "");
}

TEST(Adam, StepCounterStaysAtItsExactLimit) {
  std::unique_ptr<Optimizer> adam = Make("adam");
  One one(*adam, 1);
  one.state(0)[2] = 16'777'215;
  one.Push(0.1f);
  EXPECT_EQ(one.state(0)[2], 16'777'216);
  float value = one.Push(0.1f);
  EXPECT_EQ(one.state(0)[2], 16'777'216);
  EXPECT_TRUE(std::isfinite(value));
}

TEST(Adam, AnyLoadedStepCounterIsMadeSafe) {
  std::unique_ptr<Optimizer> adam = Make("adam", {{"beta2", 0.9999999}});
  for (float step : {-1.0f, -1e30f, 1e30f, std::numeric_limits<float>::infinity(),
                     std::numeric_limits<float>::quiet_NaN()}) {
    One one(*adam, 1);
    one.state(0)[2] = step;
    EXPECT_TRUE(std::isfinite(one.Push(0.1f))) << step;
    EXPECT_GE(one.state(0)[2], 1);
    EXPECT_LE(one.state(0)[2], 16'777'216);
  }
}

TEST(PowerTable, HoldsEveryPower) {
  for (double beta : {0.0, 0.5, 0.9, 0.999, 0.99999, 0.9999999}) {
    PowerTable power(beta);
    for (std::uint32_t t : {0u, 1u, 2u, 1023u, 1024u, 1025u, 100'000u, 16'777'215u, 16'777'216u}) {
      double expected = std::pow(beta, t);
      EXPECT_NEAR(power(t), expected, 1e-12 * expected + 1e-18) << beta << " ^ " << t;
    }
  }
}

// The contract's example: from z = 0 the value would become 0.00075.
TEST(Ftrl, TheFirstPushKeepsPretrainedValues) {
  std::unique_ptr<Optimizer> ftrl = Make("ftrl");
  EXPECT_NEAR(One(*ftrl, 0.8f).Push(0.001f), 0.8f, 1e-3);
  EXPECT_NEAR(One(*ftrl, -0.8f).Push(0.001f), -0.8f, 1e-3);
}

TEST(Ftrl, AlphaAndLearningRateAreOneParameter) {
  EXPECT_EQ(Make("ftrl", {{"learning_rate", .2}})->config(),
            Make("ftrl", {{"alpha", .2}})->config());
  EXPECT_NE(MessageOf("ftrl", {{"learning_rate", .2}, {"alpha", .2}}).find("two names"),
            std::string::npos);
}

TEST(Ftrl, SmallGradientsStayBehindL1) {
  std::unique_ptr<Optimizer> ftrl = Make("ftrl", {{"l1", 1}});
  One one(*ftrl, 0);
  EXPECT_EQ(one.Push(0.6f), 0);
  EXPECT_EQ(one.Push(0.4f), 0);  // |z| = l1 is still 0
  EXPECT_LT(one.Push(0.1f), 0);  // the sum of the gradients counts
}

// A falling rate must slow learning down, not shrink what was learnt.
TEST(Ftrl, AFallingRateDoesNotShrinkValues) {
  std::unique_ptr<Optimizer> ftrl = Make("ftrl", {{"l1", 0.001}});
  One one(*ftrl, 0);
  for (int i = 0; i < 50; ++i) one.Push(-1);
  float learnt = one.values(0)[0];
  EXPECT_GT(learnt, 0.1f);
  EXPECT_NEAR(one.Push(1e-6f, 0.1f), learnt, 1e-5);
  EXPECT_NEAR(one.Push(1e-6f, 1e-6f), learnt, 1e-5);
  EXPECT_NEAR(one.Push(1e-6f, 1.0f), learnt, 1e-5);
}

TEST(Ftrl, DecayHolds) {
  OnEachTarget([] {
    for (const Case& c : Cases()) {
      if (c.name != "ftrl") continue;
      std::unique_ptr<Optimizer> ftrl = Make(c.name, c.params);
      Params with = ftrl->config().params;
      One one(*ftrl, 0.9f);
      for (int i = 0; i < 5; ++i) one.Push(-0.1f);
      float before = one.values(0)[0], n = one.state(0)[1];
      one.Decay(0.5f);
      float after = one.values(0)[0];
      EXPECT_EQ(after, 0.5f * before);
      double slope =
          with["l2"] + (with["beta"] + std::pow(n, -with["learning_rate_power"])) / with["alpha"];
      EXPECT_NEAR(one.state(0)[0], -(with["l1"] + after * slope), 1e-5 * (1 + after * slope));
      EXPECT_EQ(one.state(0)[1], n);
      EXPECT_NEAR(one.Push(0), after, 1e-5);
    }
  });
}

TEST(Ftrl, DecayOfAZeroScalesItsGradientSum) {
  std::unique_ptr<Optimizer> ftrl = Make("ftrl", {{"l1", 1}});
  One one(*ftrl, 0);
  one.Push(0.5f);
  one.Decay(0.5f);
  EXPECT_EQ(one.values(0)[0], 0);
  EXPECT_EQ(one.state(0)[0], 0.25f);
}

}  // namespace
}  // namespace ps::optimizers
