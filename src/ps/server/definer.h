#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ps/base/status.h"
#include "ps/optimizers/optimizer.h"
#include "ps/server/core.h"
#include "ps/server/peers.h"

namespace ps::server {

// Takes in new cluster definitions, one after the other: checks wholly, makes the new tables on
// every shard, then publishes. A refused definition changes nothing. A version that is not newer
// than the one held is answered with ok when it says nothing else, and refused when it does.
class Definer {
 public:
  using Done = std::function<void(const Status&)>;

  explicit Definer(Core* core) : core_(core) {}

  // `peers`: where the cluster's servers are. Thread-safe; `done` is called on a shard's thread.
  void Define(std::string definition_json, Peers peers, Done done);

 private:
  struct Work {
    std::string json;
    Peers peers;
    Done done;
  };
  using Tables = std::vector<std::unique_ptr<store::EmbeddingStore>>;
  // A definition on its way through the shards.
  struct Staging {
    DefinitionPtr next;
    Peers peers;
    std::size_t first_table = 0;
    std::unique_ptr<optimizers::Optimizer> weight_optimizer;  // with the first definition
    std::vector<Tables> tables;                               // by shard
    std::vector<Status> statuses;                             // by shard
  };

  void Begin();
  Status Prepare(const std::string& json, std::shared_ptr<Staging>* staging);
  Status MakeTables(Shard& shard, const Staging& staging, Tables* tables) const;
  void Made(const std::shared_ptr<Staging>& staging);
  void End(const Status& status);

  Core* const core_;
  // --- shard 0's thread only
  std::deque<Work> waiting_;
  bool busy_ = false;
  std::unique_ptr<optimizers::Optimizer> weight_optimizer_;
};

}  // namespace ps::server
