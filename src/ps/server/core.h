#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/limits.h"
#include "ps/base/metrics.h"
#include "ps/net/listener.h"
#include "ps/server/definition.h"
#include "ps/server/in_flight.h"
#include "ps/server/push_ledger.h"
#include "ps/server/row_gate.h"
#include "ps/server/server.h"
#include "ps/server/shard.h"
#include "ps/store/row_budget.h"

namespace ps::server {

class Replicator;

// What the handlers of one server share. Made and wired by Server, which outlives every request.
struct Core {
  Core(ServerOptions server_options, const Clock* the_clock, std::uint64_t the_incarnation)
      : options(std::move(server_options)),
        clock(the_clock),
        incarnation(the_incarnation),
        started(the_clock->Now()),
        log(std::to_string(options.server_id), options.log_level, the_clock),
        in_flight(options.requests_in_flight_bytes_max),
        budget(options.rows_max),
        gate(&budget),
        ledger(the_clock) {}

  const ServerOptions options;
  const Clock* const clock;
  const std::uint64_t incarnation;
  const SteadyTime started;
  Log log;

  Counter requests_total;  // answered, errors included
  Counter errors_total;    // answered with an error, refusals included
  Counter refusals_total;  // refused by a limit

  InFlight in_flight;
  store::RowBudget budget;
  RowGate gate;
  PushLedger ledger;

  // Numbers of pushes to the chunks of a home (sharding/copies.h), also of pushes that this server
  // knows from another that applied them; that of the own home is `ledger`.
  PushLedger& LedgerOf(ServerId home);
  // Each of them; `ledger` too.
  void ForEachLedger(const std::function<void(PushLedger&)>& each);

  // No new requests are served (closing, or closed).
  std::atomic<bool> closing{false};
  // What is under way may be cut short (the grace is over).
  std::atomic<bool> cut_short{false};
  // Begins the end of the server; returns at once. Thread-safe, set before the first request.
  std::function<void(const std::string& reason, Duration grace)> end;

  std::vector<std::unique_ptr<Shard>> shards;
  std::unique_ptr<net::Listener> listener;
  Replicator* replicator = nullptr;

  // Null until the first one came.
  DefinitionPtr definition() const {
    std::lock_guard lock(definition_mutex);
    return current_definition;
  }
  void Publish(DefinitionPtr next) {
    std::lock_guard lock(definition_mutex);
    current_definition = std::move(next);
  }

  // "server 3 (host:port)", for messages.
  std::string Name() const;

 private:
  mutable std::mutex definition_mutex;
  DefinitionPtr current_definition;
  std::mutex ledgers_mutex;
  std::map<ServerId, std::unique_ptr<PushLedger>> ledgers_of_others;  // by home
};

// A frame's payload: the user's max_message_size, but always room for a chunk of a dense tensor and
// for one row of the widest table.
inline std::size_t PayloadBytesMax(const ServerOptions& options) {
  constexpr std::size_t kAtLeast = 2u << 20;
  return std::min(std::max(options.message_bytes_max, kAtLeast), limits::kFramePayloadBytesMax);
}

// A kConnection error, which clients retry: requests that come before the first definition.
Status NotDefined(const Core& core);

// Runs `each` on every shard's thread, then `done` on the thread of the last one.
void ForEachShard(Core& core, std::function<void(Shard&)> each, std::function<void()> done);

}  // namespace ps::server
