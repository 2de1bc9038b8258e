#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/coordinator/roster.h"
#include "ps/coordinator/server_calls.h"
#include "ps/sharding/cluster_definition.h"

namespace ps::coordinator {

// The cluster's definition: its changes, one at a time, and their way to every server. Calls come
// from any thread and wait for servers. Once a server may hold a new definition it is the
// cluster's, even when another could not be told: definitions only grow, and every later change
// tells those who lack something.
class Definitions {
 public:
  using Ptr = std::shared_ptr<const sharding::ClusterDefinition>;

  // timeout: of one change, all servers together.
  Definitions(Ptr first, ServerKey key, Duration timeout, Roster* roster);

  Ptr current() const;
  // Gives the first definition to all servers.
  Status TellFirst();
  // The same definition again: nothing. Another one under the name, or one that the first server
  // refuses: error, and everything stays as it was.
  Status CreateTable(const sharding::TableDefinition& table);
  // Makes those that do not exist; another shape: error. The names that were made, whether by this
  // call or by an earlier one of the same `creator` (a repeated call whose answer was lost; "" =
  // nobody's).
  Result<std::vector<std::string>> DefineTensors(
      const std::vector<sharding::TensorDefinition>& tensors, const std::string& creator);
  // What a load brings. A table or tensor that is there otherwise is dropped, and made anew under
  // another number; so are tensors that are not listed.
  struct Adoption {
    std::vector<sharding::TableDefinition> tables;
    bool weights = false;  // tensors and weight_optimizer take the place of those that are there
    std::vector<sharding::TensorDefinition> tensors;
    sharding::OptimizerDefinition weight_optimizer;
  };
  Status Adopt(const Adoption& adoption);
  // Makes it part of the definition who is lost, and tells it to every other server, however long
  // that takes (until it has heard, is lost itself, or Abort).
  void DeclareLost();
  // Ends calls under way, and lets none begin.
  void Abort() { calls_.Abort(); }

 private:
  struct Told {
    std::uint64_t incarnation = 0;
    std::uint64_t version = 0;
  };
  using Edit = std::function<Result<bool>(sharding::ClusterDefinition*)>;

  Status Change(const Edit& edit);
  Status Tell(const Ptr& next, SteadyTime deadline, bool* refused_by_first);
  Status TellOne(const ServerRecord& server, const std::string& request, std::uint64_t version,
                 SteadyTime deadline);

  const Duration timeout_;
  Roster* const roster_;
  std::mutex change_mutex_;  // one change at a time
  ServerCalls calls_;
  std::vector<Told> told_;             // by server: what it holds
  std::vector<std::string> creators_;  // by tensor
  mutable std::mutex mutex_;           // taken after change_mutex_
  Ptr definition_;
};

}  // namespace ps::coordinator
