#pragma once

#include <chrono>

#include "ps/base/types.h"

namespace ps {

using SteadyTime = std::chrono::steady_clock::time_point;
using Duration = std::chrono::nanoseconds;

// Where no test moves the time.
inline SteadyTime Now() { return std::chrono::steady_clock::now(); }

// Time as the program sees it; passed in, so that tests can move it. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual SteadyTime Now() const = 0;
  virtual UnixDay Today() const = 0;  // UTC

  // The machine's clock. Lives for ever.
  static const Clock& System();
};

// A clock that stands still until moved. Thread-safe.
class ManualClock : public Clock {
 public:
  ManualClock();
  ~ManualClock() override;
  ManualClock(const ManualClock&) = delete;
  ManualClock& operator=(const ManualClock&) = delete;
  SteadyTime Now() const override;
  UnixDay Today() const override;
  void Advance(Duration by);
  void SetToday(UnixDay day);

 private:
  struct State;
  State* state_;
};

}  // namespace ps
