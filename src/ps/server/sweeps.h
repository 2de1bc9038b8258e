#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "ps/base/status.h"
#include "ps/server/core.h"

namespace ps::server {

struct Sweep {
  enum class Kind { kDecay, kPrune };
  Kind kind = Kind::kDecay;
  float factor = 1.0f;     // kDecay
  float min_count = 0.0f;  // kPrune
};

// Decay and prune over all tables of all shards, in bounded steps between requests: each step posts
// the next one behind what has arrived meanwhile. One sweep at a time; later ones wait.
class Sweeps {
 public:
  // Bytes of rows one step handles (one row at least): about a tenth of a millisecond. A pull meets
  // several steps on its way through two shards.
  static constexpr std::size_t kStepBytesMax = std::size_t{512} << 10;
  static constexpr std::size_t kWaitingMax = 1'024;

  // `pruned` rows went (0 for decay); kClosed when the server's end cut it short.
  using Done = std::function<void(const Status& status, std::uint64_t pruned)>;

  explicit Sweeps(Core* core) : core_(core) {}

  // Thread-safe. `done` is called on a shard's thread, or at once when too many wait.
  void Start(Sweep sweep, Done done);

 private:
  struct Work {
    Sweep sweep;
    Done done;
    DefinitionPtr definition;  // tables made later are not swept: their rows are new
    SteadyTime began;
    std::atomic<std::size_t> shards_left{0};
    std::atomic<std::uint64_t> pruned{0};
    std::atomic<bool> cut_short{false};
  };
  using WorkPtr = std::shared_ptr<Work>;

  void Begin(const WorkPtr& work);
  void Continue(const WorkPtr& work, Shard& shard, std::size_t table);
  void Step(const WorkPtr& work, Shard& shard, std::size_t table);
  void ShardDone(const WorkPtr& work);

  Core* const core_;
  std::mutex mutex_;
  std::deque<WorkPtr> waiting_;  // the first one is under way
};

}  // namespace ps::server
