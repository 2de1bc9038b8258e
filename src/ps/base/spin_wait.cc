#include "ps/base/spin_wait.h"

#include <sched.h>

#include <algorithm>

namespace ps {

bool SpinWait::Begin() {
  begun_ = asked_ = clock_.Now();
  return begun_ >= not_before_;
}

// False when it has lasted long enough, or another thread had use for the core.
bool SpinWait::Yield() {
  sched_yield();
  const SteadyTime now = clock_.Now();
  if (now - asked_ > kTurnMax) return Fail(now, kBusyPauseMin, kBusyPauseMax);
  if (now - begun_ > kWaitMax) return Fail(now, kPauseMin, kPauseMax);
  asked_ = now;
  return true;
}

bool SpinWait::Fail(SteadyTime now, Duration pause_min, Duration pause_max) {
  pause_ = std::clamp(2 * pause_, pause_min, pause_max);
  not_before_ = now + pause_;
  return false;
}

}  // namespace ps
