#include "ps/base/clock.h"

#include <atomic>

namespace ps {
namespace {

class SystemClock final : public Clock {
 public:
  SteadyTime Now() const override { return std::chrono::steady_clock::now(); }
  UnixDay Today() const override {
    auto days = std::chrono::floor<std::chrono::days>(std::chrono::system_clock::now());
    return static_cast<UnixDay>(days.time_since_epoch().count());
  }
};

}  // namespace

const Clock& Clock::System() {
  static const SystemClock clock;
  return clock;
}

struct ManualClock::State {
  // From an hour after the steady clock's zero, so that tests may subtract.
  std::atomic<Duration::rep> now_ns{std::chrono::nanoseconds(std::chrono::hours(1)).count()};
  std::atomic<UnixDay> today{19'000};
};

ManualClock::ManualClock() : state_(new State) {}
ManualClock::~ManualClock() { delete state_; }

SteadyTime ManualClock::Now() const { return SteadyTime(Duration(state_->now_ns.load())); }
UnixDay ManualClock::Today() const { return state_->today.load(); }
void ManualClock::Advance(Duration by) { state_->now_ns.fetch_add(by.count()); }
void ManualClock::SetToday(UnixDay day) { state_->today.store(day); }

}  // namespace ps
