#pragma once

#include "ps/base/clock.h"

namespace ps {

// Waits awake, for a little while, for what is about to happen: to sleep and to be woken from
// another core takes 20 to 40 us where cores are virtual ones that halt, longer than many an answer
// takes. Only while no other thread has use for the core, and only where it has been worth it
// lately: after a wait in vain the next are left out for a while, twice as long each time. Of one
// thread.
class SpinWait {
 public:
  // Of one wait: a short answer, with the other end asleep.
  static constexpr Duration kWaitMax = std::chrono::microseconds(100);
  // How long waits are left out after one in vain: a tenth of the time at most is lost with them.
  static constexpr Duration kPauseMin = std::chrono::milliseconds(1);
  static constexpr Duration kPauseMax = std::chrono::milliseconds(128);
  // Whom a yield has taken away for longer has met a thread that computes; the next time costs its
  // time slice again, 3 ms.
  static constexpr Duration kTurnMax = std::chrono::microseconds(500);
  static constexpr Duration kBusyPauseMin = std::chrono::milliseconds(64);
  static constexpr Duration kBusyPauseMax = std::chrono::seconds(2);

  explicit SpinWait(const Clock& clock = Clock::System()) : clock_(clock) {}

  // Asks `ready` until it says true, and says so; false: go to sleep (it may not have been asked).
  template <typename Ready>
  bool Until(Ready ready) {
    if (!Begin()) return false;
    if (ready()) return true;
    while (Yield()) {
      if (!ready()) continue;
      pause_ = {};
      return true;
    }
    return false;
  }

 private:
  bool Begin();
  bool Yield();
  bool Fail(SteadyTime now, Duration pause_min, Duration pause_max);

  const Clock& clock_;
  SteadyTime begun_{};
  SteadyTime asked_{};
  SteadyTime not_before_{};
  Duration pause_{};
};

}  // namespace ps
