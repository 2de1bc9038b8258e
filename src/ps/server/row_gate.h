#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "ps/store/row_budget.h"

namespace ps::server {

// Who may create rows, so that a request is admitted wholly or refused wholly, and refused only
// when the rows that exist leave no room for it.
//
// The quick way reserves one row for each key, runs in one pass and gives back what was not used.
// When that many do not fit, the exact way counts the missing keys first:
//
//   EnterExact -> (count on the shards) -> ReserveExact -> run -> Settle, LeaveExact
//
// A reservation in flight may be larger than what it will use, so an exact one that does not fit
// waits until all others have settled; only then is "does not fit" an answer. While one waits, the
// quick way is closed. Between an exact request's count and its run no row may go: prune steps ask
// too, and wait until no exact request is inside; while one waits, further exact requests wait
// behind it.
//
// Thread-safe. Callbacks run on the thread whose call let them in (perhaps inside the call itself),
// without the lock; they must be short (post somewhere).
class RowGate {
 public:
  explicit RowGate(store::RowBudget* budget) : budget_(budget) {}

  // The quick way; true: call Settle later.
  bool TryReserve(std::uint64_t rows);

  void EnterExact(std::function<void()> entered);
  // Read before counting; grows when rows are made.
  std::uint64_t generation();
  enum class Decision {
    kAdmitted,    // call Settle later
    kRefused,     // nothing held
    kCountAgain,  // nothing held; rows were made since `generation`
  };
  // rows > 0 (who needs none holds nothing).
  void ReserveExact(std::uint64_t rows, std::uint64_t generation,
                    std::function<void(Decision)> decided);
  void LeaveExact();

  // Ends a reservation of `reserved` rows, `unused` of which were not made.
  void Settle(std::uint64_t reserved, std::uint64_t unused);

  void EnterPrune(std::function<void()> entered);
  void LeavePrune();

 private:
  using Callbacks = std::vector<std::function<void()>>;
  struct Waiting {
    std::uint64_t rows;
    std::uint64_t generation;
    std::function<void(Decision)> decided;
  };

  void DecideWaiting(Callbacks* run);
  void AdmitWaiting(Callbacks* run);

  store::RowBudget* const budget_;
  std::mutex mutex_;
  std::uint64_t holders_ = 0;  // reservations not settled yet
  std::uint64_t generation_ = 0;
  std::deque<Waiting> waiting_;
  std::uint64_t exacts_ = 0;
  std::uint64_t prunes_ = 0;
  std::deque<std::function<void()>> exacts_waiting_;
  std::deque<std::function<void()>> prunes_waiting_;
};

}  // namespace ps::server
