#pragma once

// What every benchmark says about repeated measurements, and the line that bench/run reads.
#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <string>
#include <vector>

namespace ps::bench {

// The value below which `share` of the values lie. Requires at least one value.
inline double Quantile(std::vector<double> values, double share) {
  auto rank = static_cast<std::size_t>(share * static_cast<double>(values.size()));
  auto place = values.begin() + static_cast<long>(std::min(rank, values.size() - 1));
  std::nth_element(values.begin(), place, values.end());
  return *place;
}
inline double Median(const std::vector<double>& values) { return Quantile(values, 0.5); }

// "44 % (41 to 47)" or "6.1x (5.9 to 6.4)": the median, and between which tenths all but a fifth
// of the values lie.
inline std::string Share(const std::vector<double>& ratios) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.0f %% (%.0f to %.0f)", 100 * Median(ratios),
                100 * Quantile(ratios, 0.1), 100 * Quantile(ratios, 0.9));
  return text;
}
inline std::string Multiple(const std::vector<double>& ratios) {
  char text[64];
  std::snprintf(text, sizeof(text), "%.1fx (%.1f to %.1f)", Median(ratios), Quantile(ratios, 0.1),
                Quantile(ratios, 0.9));
  return text;
}

// One line of bench/RESULTS.md; floor and aim are empty for a figure that is only to be seen.
inline void Bar(const std::string& what, const std::string& measured, const char* floor,
                const char* aim) {
  std::printf("bar: %s | %s | %s | %s\n", what.c_str(), measured.c_str(), floor, aim);
  std::fflush(stdout);
}

}  // namespace ps::bench
