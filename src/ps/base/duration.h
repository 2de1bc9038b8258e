#pragma once

#include <algorithm>
#include <chrono>

#include "ps/base/clock.h"

namespace ps {

// A number of seconds as a duration. Held within +-1e9 s (31 years), so that neither it nor a time
// of now plus it overflows, however long a time-out a user sets; NaN is 0.
inline Duration Seconds(double seconds) {
  constexpr double kSecondsMax = 1e9;
  if (seconds != seconds) return Duration::zero();
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::clamp(seconds, -kSecondsMax, kSecondsMax)));
}

}  // namespace ps
