#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/net/client_connection.h"
#include "ps/server/change.h"
#include "ps/server/core.h"
#include "ps/server/peers.h"

namespace ps::server {

// The copies of dense tensors, as one server sees them: it puts all changes of chunks in one order,
// and sends what they made of the chunks to the next server of the chain (sharding/copies.h).
//
// One order for all shards, so that what is sent of a change holds the effect of exactly the
// changes before it, whose ledger entries have been sent as well. A change that overtook another on
// one shard would carry that one's effect without its entry, and a retry after the loss of this
// server would apply it twice.
//
// Nobody but the coordinator, with a new cluster definition, says that the next server is lost.
// Until then a change that it has not acknowledged waits, whatever the network does: no two servers
// can acknowledge changes of one chunk. The next server in turn refuses what comes from a server
// that it knows to be lost; that one then ends.
//
// Thread-safe. One thread of its own, from the first change that is to be passed on, which sends
// and waits for acknowledgements, many changes at a time. Memory: what wait is bounded by the
// requests under way (in_flight.h), which give back their bytes when they are answered.
class Replicator {
 public:
  explicit Replicator(Core* core);
  ~Replicator();
  Replicator(const Replicator&) = delete;

  // Runs `post`, which posts a change of chunks to its shards; no two at a time, so that every
  // shard gets them in the same order. `change`: what is to be passed on of it; may be null. Not ok
  // (kConnection, clients try again), and `post` is not run: `planned` is not how the servers stand
  // any more.
  Status Order(const DefinitionPtr& planned, const ChangePtr& change,
               const std::function<void()>& post);
  // All shards are through with the change. `done` is called once the next server has it as well,
  // or is needed no more; from any thread.
  void Complete(const ChangePtr& change, Change::Done done);

  // Makes `next` the definition that is served. Homes whose owner this server becomes with it get a
  // new epoch of versions before any request that comes later. Empty `peers`: as before.
  void Publish(DefinitionPtr next, Peers peers);
  void LearnPeers(Peers peers);

  // What has not been acknowledged is dropped, unanswered.
  void Stop();

 private:
  using Batch = std::vector<ChangePtr>;
  class Line;

  void TakePeers(Peers peers);
  void Run();
  // --- with the lock
  Batch TakeLocal(const ServingDefinition& definition);
  Batch Sendable(const ServingDefinition& definition) const;
  net::ConnectOptions NextServer(const ServingDefinition& definition, ServerId home,
                                 std::uint64_t generation);
  // --- without
  Status Wait(Line* line);
  void GiveUp(const Status& why);
  void Wake();
  bool WaitForWake(Duration longest, int fd);

  Core* const core_;
  const int wake_fd_;
  std::mutex mutex_;
  std::deque<ChangePtr> waiting_;  // in their order; also what is on its way
  Peers peers_;
  bool stopping_ = false;
  std::atomic<std::uint64_t> generation_{0};  // grows when the servers are others than before
  std::thread thread_;
};

}  // namespace ps::server
