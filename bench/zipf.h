#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>

namespace ps::bench {

// Ranks from 0 with probability ~ (rank + 1)^-s: rejection-inversion after Hoermann and Derflinger,
// "Rejection-inversion to generate variates from monotone discrete distributions" (1996).
class Zipf {
 public:
  Zipf(double n, double s) : n_(n), s_(s), low_(H(1.5) - 1.0), high_(H(n + 0.5)) {}

  template <typename Random>
  std::uint64_t operator()(Random& random) const {
    std::uniform_real_distribution<double> uniform(low_, high_);
    for (;;) {
      const double u = uniform(random);
      const double x = HInverse(u);
      const double k = std::clamp(std::round(x), 1.0, n_);
      if (u >= H(k + 0.5) - std::pow(k, -s_)) return static_cast<std::uint64_t>(k) - 1;
    }
  }

 private:
  double H(double x) const { return (std::pow(x, 1 - s_) - 1) / (1 - s_); }
  double HInverse(double u) const { return std::pow(1 + u * (1 - s_), 1 / (1 - s_)); }

  double n_, s_, low_, high_;
};

}  // namespace ps::bench
