#include "ps/server/core.h"

namespace ps::server {

std::string Core::Name() const {
  std::string name = "server " + std::to_string(options.server_id);
  if (listener != nullptr) {
    name += " (" + options.advertised_host + ":" + std::to_string(listener->port()) + ")";
  }
  return name;
}

PushLedger& Core::LedgerOf(ServerId home) {
  if (home == options.server_id) return ledger;
  std::lock_guard lock(ledgers_mutex);
  std::unique_ptr<PushLedger>& of_home = ledgers_of_others[home];
  if (of_home == nullptr) of_home = std::make_unique<PushLedger>(clock);
  return *of_home;
}

void Core::ForEachLedger(const std::function<void(PushLedger&)>& each) {
  each(ledger);
  std::lock_guard lock(ledgers_mutex);
  for (auto& [home, of_home] : ledgers_of_others) each(*of_home);
}

Status NotDefined(const Core& core) {
  return ConnectionError(core.Name() +
                         " does not know the cluster's tables yet: the cluster is starting; try "
                         "again");
}

void ForEachShard(Core& core, std::function<void(Shard&)> each, std::function<void()> done) {
  struct State {
    std::function<void(Shard&)> each;
    std::function<void()> done;
    std::atomic<std::size_t> left;
  };
  const std::shared_ptr<State> state(
      new State{std::move(each), std::move(done), core.shards.size()});
  for (auto& shard : core.shards) {
    shard->Post([state, &shard = *shard] {
      state->each(shard);
      if (state->left.fetch_sub(1, std::memory_order_acq_rel) == 1) state->done();
    });
  }
}

}  // namespace ps::server
