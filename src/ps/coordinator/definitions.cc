#include "ps/coordinator/definitions.h"

#include <algorithm>
#include <thread>

#include "ps/base/limits.h"
#include "ps/sharding/json_fields.h"

namespace ps::coordinator {
namespace {

using sharding::ClusterDefinition;
using sharding::Json;

// One attempt to tell a server that another is lost: a frozen one must not keep the rest from
// hearing it. Between rounds of attempts: the pause.
constexpr Duration kTellTimeout = std::chrono::seconds(2);
constexpr Duration kTellAgainPause = std::chrono::milliseconds(50);

// Adds the table; false when it is there already. Another definition under its name: error.
Result<bool> AddTable(sharding::TableDefinition table, ClusterDefinition* definition) {
  if (const sharding::TableDefinition* old = definition->FindTable(table.name)) {
    if (old->SameAs(table)) return false;
    return InvalidArgument("table '" + table.name +
                           "' exists with another definition: " + sharding::TableToJson(*old) +
                           "; asked for was " + sharding::TableToJson(table));
  }
  if (definition->tables.size() >= limits::kTablesMax) {
    return ResourceExhausted("table '" + table.name + "': a cluster has at most " +
                             std::to_string(limits::kTablesMax) + " tables");
  }
  table.id = static_cast<TableId>(definition->tables.size());
  definition->tables.push_back(std::move(table));
  return true;
}

std::string ShapeText(const std::vector<std::uint64_t>& shape) { return Json(shape).dump(); }

Result<bool> AddTensor(sharding::TensorDefinition tensor, ClusterDefinition* definition) {
  if (const sharding::TensorDefinition* old = definition->FindTensor(tensor.name)) {
    if (old->shape == tensor.shape) return false;
    return InvalidArgument("dense tensor '" + tensor.name + "' exists with shape " +
                           ShapeText(old->shape) + "; asked for was " + ShapeText(tensor.shape));
  }
  if (definition->tensors.size() >= limits::kTensorsMax) {
    return ResourceExhausted("dense tensor '" + tensor.name + "': a cluster has at most " +
                             std::to_string(limits::kTensorsMax));
  }
  tensor.id = static_cast<TensorId>(definition->tensors.size());
  definition->tensors.push_back(std::move(tensor));
  return true;
}

template <typename Definition>
Definition* FindLiving(std::vector<Definition>& definitions, const std::string& name) {
  for (Definition& one : definitions) {
    if (one.name == name && !one.dropped) return &one;
  }
  return nullptr;
}

Result<bool> AdoptTables(const Definitions::Adoption& adoption, ClusterDefinition* definition) {
  bool differs = false;
  for (const sharding::TableDefinition& table : adoption.tables) {
    auto* old = FindLiving(definition->tables, table.name);
    if (old != nullptr && !old->SameAs(table)) old->dropped = true;
    PS_ASSIGN_OR_RETURN(bool added, AddTable(table, definition));
    differs = differs || added;
  }
  return differs;
}

Result<bool> AdoptWeights(const Definitions::Adoption& adoption, ClusterDefinition* definition) {
  bool differs = !(definition->weight_optimizer == adoption.weight_optimizer);
  definition->weight_optimizer = adoption.weight_optimizer;
  for (sharding::TensorDefinition& old : definition->tensors) {
    if (old.dropped) continue;
    const bool stays = std::any_of(
        adoption.tensors.begin(), adoption.tensors.end(),
        [&](const auto& tensor) { return tensor.name == old.name && tensor.shape == old.shape; });
    old.dropped = !stays;
    differs = differs || !stays;
  }
  for (const sharding::TensorDefinition& tensor : adoption.tensors) {
    PS_ASSIGN_OR_RETURN(bool added, AddTensor(tensor, definition));
    differs = differs || added;
  }
  return differs;
}

std::string DefineRequest(const ClusterDefinition& definition,
                          const std::vector<ServerRecord>& servers) {
  return "{\"op\":\"define\",\"definition\":" + definition.ToJson() +
         ",\"servers\":" + ServersToJson(servers) + "}";
}

}  // namespace

Definitions::Definitions(Ptr first, ServerKey key, Duration timeout, Roster* roster)
    : timeout_(timeout),
      roster_(roster),
      calls_(first->map.server_count, std::move(key)),
      told_(first->map.server_count),
      definition_(std::move(first)) {}

Definitions::Ptr Definitions::current() const {
  std::lock_guard lock(mutex_);
  return definition_;
}

Status Definitions::TellFirst() {
  std::lock_guard one(change_mutex_);
  bool refused_by_first = false;
  return Tell(current(), Now() + timeout_, &refused_by_first);
}

// Gives `next` to every server that does not hold it yet. Requires change_mutex_.
Status Definitions::Tell(const Ptr& next, SteadyTime deadline, bool* refused_by_first) {
  const std::vector<ServerRecord> servers = roster_->Records();
  const std::string request = DefineRequest(*next, servers);
  bool first = true;
  for (const ServerRecord& server : servers) {
    const Told& told = told_[server.server_id];
    if (told.incarnation == server.incarnation && told.version >= next->version) continue;
    Status status = TellOne(server, request, next->version, deadline);
    if (!status.ok()) {
      StatusCode code = status.code();
      *refused_by_first = first && code != StatusCode::kConnection &&
                          code != StatusCode::kTimeout && code != StatusCode::kClosed;
      return status;
    }
    first = false;
  }
  return Status::Ok();
}

Status Definitions::TellOne(const ServerRecord& server, const std::string& request,
                            std::uint64_t version, SteadyTime deadline) {
  Result<std::string> reply =
      calls_.Call(server, request, deadline, [&] { return roster_->Gone(server.server_id); });
  if (!reply.ok()) return reply.status();
  told_[server.server_id] = {server.incarnation, version};
  return Status::Ok();
}

void Definitions::DeclareLost() {
  std::lock_guard one(change_mutex_);
  std::vector<ServerId> lost = roster_->Lost();
  if (lost == current()->weight_copies.lost) return;
  auto next = std::make_shared<ClusterDefinition>(*current());
  next->weight_copies.lost = std::move(lost);
  ++next->version;
  {
    std::lock_guard lock(mutex_);
    definition_ = next;
  }
  std::vector<ServerRecord> untold = roster_->Records();
  const std::string request = DefineRequest(*next, untold);
  while (true) {
    std::erase_if(untold, [&](const ServerRecord& server) {
      return roster_->Gone(server.server_id) ||
             TellOne(server, request, next->version, Now() + kTellTimeout).ok();
    });
    if (untold.empty()) return;
    std::this_thread::sleep_for(kTellAgainPause);
  }
}

Status Definitions::Change(const Edit& edit) {
  PS_RETURN_IF_ERROR(roster_->CheckRunning());
  Ptr now = current();
  auto next = std::make_shared<ClusterDefinition>(*now);
  PS_ASSIGN_OR_RETURN(bool differs, edit(next.get()));
  if (differs) ++next->version;
  Ptr target = differs ? Ptr(next) : now;
  bool refused_by_first = false;
  Status status = Tell(target, Now() + timeout_, &refused_by_first);
  if (refused_by_first) return status;
  std::lock_guard lock(mutex_);
  definition_ = target;
  return status;
}

Status Definitions::CreateTable(const sharding::TableDefinition& table) {
  PS_ASSIGN_OR_RETURN(auto checked, sharding::TableFromJson(sharding::TableToJson(table)));
  std::lock_guard one(change_mutex_);
  return Change([&](ClusterDefinition* definition) { return AddTable(checked, definition); });
}

Result<std::vector<std::string>> Definitions::DefineTensors(
    const std::vector<sharding::TensorDefinition>& tensors, const std::string& creator) {
  std::lock_guard one(change_mutex_);
  const std::size_t before = current()->tensors.size();
  creators_.resize(before);
  Status status = Change([&](ClusterDefinition* definition) -> Result<bool> {
    for (const sharding::TensorDefinition& tensor : tensors) {
      PS_RETURN_IF_ERROR(AddTensor(tensor, definition).status());
    }
    return definition->tensors.size() > before;
  });
  // Also when a server could not be told: the definition may have become the cluster's.
  Ptr now = current();
  creators_.resize(now->tensors.size(), creator);
  if (!status.ok()) return status;
  std::vector<std::string> created;
  for (const sharding::TensorDefinition& tensor : tensors) {
    TensorId id = now->FindTensor(tensor.name)->id;
    bool is_new = id >= before || (!creator.empty() && creators_[id] == creator);
    if (is_new) created.push_back(tensor.name);
  }
  return created;
}

Status Definitions::Adopt(const Adoption& adoption) {
  std::lock_guard one(change_mutex_);
  return Change([&](ClusterDefinition* definition) -> Result<bool> {
    PS_ASSIGN_OR_RETURN(bool tables, AdoptTables(adoption, definition));
    if (!adoption.weights) return tables;
    PS_ASSIGN_OR_RETURN(bool weights, AdoptWeights(adoption, definition));
    return tables || weights;
  });
}

}  // namespace ps::coordinator
