#include "ps/server/initial_values.h"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "ps/server/replicator.h"

namespace ps::server {
namespace {

struct ChunkInit {
  store::ChunkId id;
  Initializer initializer;
};

// The chunks of one home on their way through the shards.
struct HomeInit {
  DefinitionPtr definition;
  std::vector<ChunkInit> chunks;
  ChangePtr change;  // null: nobody else gets to know
};

// Calls `done` when all parts have ended, with the first error.
class Parts {
 public:
  Parts(std::size_t count, std::function<void(const Status&)> done)
      : left_(count), done_(std::move(done)) {}
  void End(const Status& status) {
    {
      std::lock_guard lock(mutex_);
      if (status_.ok()) status_ = status;
      if (--left_ > 0) return;
    }
    done_(status_);
  }

 private:
  std::mutex mutex_;
  std::size_t left_;
  Status status_;
  const std::function<void(const Status&)> done_;
};

void AssignOn(Shard& shard, const HomeInit& home) {
  const ServingDefinition& definition = *home.definition;
  for (std::size_t i = 0; i < home.chunks.size(); ++i) {
    const store::ChunkId id = home.chunks[i].id;
    if (definition.ShardOfChunk(id.tensor, id.chunk) != shard.index()) continue;
    shard.weights().AssignInitial(id, home.chunks[i].initializer, definition.cluster.seed,
                                  definition.tensor_salts[id.tensor],
                                  definition.cluster.tensors[id.tensor].chunk_floats(id.chunk));
    definition.presence[id.tensor]->Mark(id.chunk);
    if (home.change != nullptr) home.change->Put(i, id, shard.weights().Get(id));
  }
}

void Start(Core* core, ServerId of, std::shared_ptr<HomeInit> home,
           const std::shared_ptr<Parts>& parts) {
  if (home->definition->PassesOn(of)) {
    home->change = std::make_shared<Change>(of, 0, 0, home->chunks.size());
  }
  Status status = core->replicator->Order(home->definition, home->change, [&] {
    ForEachShard(
        *core, [home](Shard& shard) { AssignOn(shard, *home); },
        [core, home, parts] {
          if (home->change == nullptr) return parts->End(Status::Ok());
          core->replicator->Complete(home->change,
                                     [parts](const Status& ended) { parts->End(ended); });
        });
  });
  if (!status.ok()) parts->End(status);
}

}  // namespace

void AssignInitialValues(Core* core, const DefinitionPtr& definition,
                         const std::vector<TensorInit>& inits,
                         std::function<void(const Status&)> done) {
  std::map<ServerId, std::shared_ptr<HomeInit>> homes;
  for (const TensorInit& init : inits) {
    const sharding::TensorDefinition& tensor = definition->cluster.tensors[init.id];
    for (std::uint32_t chunk = 0; chunk < tensor.chunks(); ++chunk) {
      const ServerId of = definition->HomeOfChunk(init.id, chunk);
      if (!definition->Owns(of)) continue;
      std::shared_ptr<HomeInit>& home = homes[of];
      if (home == nullptr) home = std::make_shared<HomeInit>(HomeInit{definition, {}, nullptr});
      home->chunks.push_back({{init.id, chunk}, init.initializer});
    }
  }
  auto parts = std::make_shared<Parts>(homes.size() + 1, std::move(done));
  for (auto& [of, home] : homes) Start(core, of, std::move(home), parts);
  parts->End(Status::Ok());
}

}  // namespace ps::server
