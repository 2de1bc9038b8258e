#include "ps/sharding/cluster_definition.h"

#include <algorithm>
#include <bit>
#include <set>
#include <tuple>

#include "ps/base/limits.h"
#include "ps/base/random.h"
#include "ps/sharding/json_fields.h"

namespace ps::sharding {
namespace {

constexpr std::size_t kShapeRankMax = 64;
constexpr std::size_t kOptimizerParamsMax = 64;
constexpr std::size_t kWordBytesMax = 64;  // optimizer and initializer names
// Floats of one dense tensor: 2^40 (4 TiB); keeps every product of sizes far from overflow.
constexpr std::uint64_t kTensorFloatsMax = 1ull << 40;

Json ToJsonValue(const OptimizerDefinition& optimizer) {
  return Json{{"name", optimizer.name}, {"params", optimizer.params}};
}

Json ToJsonValue(const TableDefinition& table) {
  Json json{{"id", table.id},     {"name", table.name},
            {"dim", table.dim},   {"optimizer", ToJsonValue(table.optimizer)},
            {"init", table.init}, {"init_scale", table.init_scale}};
  if (table.dropped) json["dropped"] = true;
  return json;
}

Json ToJsonValue(const TensorDefinition& tensor) {
  Json json{{"id", tensor.id}, {"name", tensor.name}, {"shape", tensor.shape}};
  if (tensor.dropped) json["dropped"] = true;
  return json;
}

Result<bool> IsDropped(const Json& json) {
  if (FindField(json, "dropped") == nullptr) return false;
  return GetBool(json, "dropped");
}

Json ToJsonValue(const PartitionMap& map) {
  return Json{{"epoch", map.epoch},
              {"partition_bits", map.partition_bits},
              {"server_count", map.server_count},
              {"owner", map.owner}};
}

// Code points of a UTF-8 text; -1 when one of them is a control character (C0, DEL, C1).
int CountPrintable(const std::string& text) {
  int count = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c == 0x7f) return -1;
    bool c1 = c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (c1) return -1;
    count += (c & 0xc0) != 0x80;
  }
  return count;
}

Status CheckTableName(const std::string& name) {
  int chars = CountPrintable(name);
  if (chars >= 1 && chars <= static_cast<int>(limits::kTableNameCharsMax)) return Status::Ok();
  return InvalidArgument("table name " + Dump(Json(name.substr(0, 200))) + ": allowed are 1 to " +
                         std::to_string(limits::kTableNameCharsMax) + " printable characters");
}

Result<OptimizerDefinition> OptimizerFromValue(const Json& json) {
  OptimizerDefinition optimizer;
  PS_ASSIGN_OR_RETURN(optimizer.name, GetString(json, "name"));
  if (optimizer.name.empty() || optimizer.name.size() > kWordBytesMax) {
    return InvalidArgument("optimizer name of " + std::to_string(optimizer.name.size()) +
                           " bytes; allowed are 1 to " + std::to_string(kWordBytesMax));
  }
  PS_ASSIGN_OR_RETURN(const Json* params, GetObject(json, "params"));
  if (params->size() > kOptimizerParamsMax) {
    return InvalidArgument("optimizer '" + optimizer.name + "' has " +
                           std::to_string(params->size()) + " parameters; at most " +
                           std::to_string(kOptimizerParamsMax));
  }
  for (const auto& [name, value] : params->items()) {
    PS_ASSIGN_OR_RETURN(optimizer.params[name], GetNumber(*params, name.c_str()));
  }
  return optimizer;
}

Result<TableDefinition> TableFromValue(const Json& json) {
  TableDefinition table;
  PS_ASSIGN_OR_RETURN(table.name, GetString(json, "name"));
  PS_RETURN_IF_ERROR(CheckTableName(table.name));
  if (FindField(json, "id") != nullptr) {
    PS_ASSIGN_OR_RETURN(table.id, GetUnsigned(json, "id", limits::kTablesMax - 1));
  }
  PS_ASSIGN_OR_RETURN(table.dim, GetUnsigned(json, "dim", limits::kEmbeddingDimMax));
  if (table.dim == 0) return InvalidArgument("table '" + table.name + "': dim is 0");
  PS_ASSIGN_OR_RETURN(const Json* optimizer, GetObject(json, "optimizer"));
  PS_ASSIGN_OR_RETURN(table.optimizer, OptimizerFromValue(*optimizer));
  PS_ASSIGN_OR_RETURN(table.init, GetString(json, "init"));
  if (Result<InitKind> kind = ParseInitKind(table.init); !kind.ok()) return kind.status();
  PS_ASSIGN_OR_RETURN(table.init_scale, GetNumber(json, "init_scale", 0.0, 1e30));
  PS_ASSIGN_OR_RETURN(table.dropped, IsDropped(json));
  return table;
}

Result<TensorDefinition> TensorFromValue(const Json& json) {
  TensorDefinition tensor;
  PS_ASSIGN_OR_RETURN(tensor.name, GetString(json, "name"));
  if (tensor.name.empty() || tensor.name.size() > limits::kTensorNameBytesMax) {
    return InvalidArgument("dense tensor name of " + std::to_string(tensor.name.size()) +
                           " bytes; allowed are 1 to " +
                           std::to_string(limits::kTensorNameBytesMax));
  }
  if (FindField(json, "id") != nullptr) {
    PS_ASSIGN_OR_RETURN(tensor.id, GetUnsigned(json, "id", limits::kTensorsMax - 1));
  }
  PS_ASSIGN_OR_RETURN(const Json* shape, GetArray(json, "shape", kShapeRankMax));
  std::uint64_t floats = 1;
  for (const Json& extent : *shape) {
    if (!extent.is_number_unsigned() || extent.get<std::uint64_t>() > kTensorFloatsMax) {
      return InvalidArgument("dense tensor '" + tensor.name + "': shape " + Dump(*shape) +
                             " has an extent that is not a whole number from 0 to 2^40");
    }
    tensor.shape.push_back(extent.get<std::uint64_t>());
    if (tensor.shape.back() != 0 && floats > kTensorFloatsMax / tensor.shape.back()) {
      return InvalidArgument("dense tensor '" + tensor.name + "': shape " + Dump(*shape) +
                             " has more than 2^40 values");
    }
    floats *= tensor.shape.back();
  }
  PS_ASSIGN_OR_RETURN(tensor.dropped, IsDropped(json));
  return tensor;
}

Result<PartitionMap> MapFromValue(const Json& json) {
  PartitionMap map;
  PS_ASSIGN_OR_RETURN(map.epoch, GetUnsigned(json, "epoch"));
  PS_ASSIGN_OR_RETURN(map.partition_bits, GetUnsigned(json, "partition_bits", 16));
  PS_ASSIGN_OR_RETURN(map.server_count, GetUnsigned(json, "server_count", limits::kServersMax));
  PS_ASSIGN_OR_RETURN(const Json* owners, GetArray(json, "owner", limits::kPartitionCountMax));
  if (owners->size() != std::size_t{1} << map.partition_bits) {
    return InvalidArgument("partition map: " + std::to_string(owners->size()) +
                           " owners for partition_bits " + std::to_string(map.partition_bits));
  }
  map.owner.reserve(owners->size());
  for (const Json& owner : *owners) {
    if (!owner.is_number_unsigned() || owner.get<std::uint64_t>() >= map.server_count) {
      return InvalidArgument("partition map: owner " + Dump(owner) + " of partition " +
                             std::to_string(map.owner.size()) + " is not below server_count " +
                             std::to_string(map.server_count));
    }
    map.owner.push_back(owner.get<ServerId>());
  }
  return map;
}

Result<Copies> CopiesFromValue(const Json& json, std::uint32_t server_count) {
  Copies copies{server_count, 1, {}};
  PS_ASSIGN_OR_RETURN(copies.copies, GetUnsigned(json, "weight_replicas", server_count));
  if (copies.copies == 0) return InvalidArgument("weight_replicas is 0; allowed is 1 or more");
  PS_ASSIGN_OR_RETURN(const Json* lost, GetArray(json, "lost", limits::kServersMax));
  for (const Json& server : *lost) {
    const bool in_order = server.is_number_unsigned() &&
                          server.get<std::uint64_t>() < server_count &&
                          (copies.lost.empty() || server.get<std::uint64_t>() > copies.lost.back());
    if (!in_order) {
      return InvalidArgument("lost: " + Dump(*lost) + " are not server ids below " +
                             std::to_string(server_count) + ", ascending");
    }
    copies.lost.push_back(server.get<ServerId>());
  }
  return copies;
}

// Ids are indices, names of what was not dropped are distinct.
template <typename Definition>
Status CheckNumbering(const char* what, const std::vector<Definition>& definitions) {
  std::set<std::string> names;
  for (std::size_t i = 0; i < definitions.size(); ++i) {
    if (definitions[i].id != i) {
      return InvalidArgument(std::string(what) + " '" + definitions[i].name + "' has id " +
                             std::to_string(definitions[i].id) + " but is number " +
                             std::to_string(i));
    }
    if (!definitions[i].dropped && !names.insert(definitions[i].name).second) {
      return InvalidArgument(std::string(what) + " '" + definitions[i].name + "' is there twice");
    }
  }
  return Status::Ok();
}

}  // namespace

bool TableDefinition::SameAs(const TableDefinition& other) const {
  return std::tie(name, dim, optimizer, init, init_scale, dropped) ==
         std::tie(other.name, other.dim, other.optimizer, other.init, other.init_scale,
                  other.dropped);
}

std::uint64_t TensorDefinition::floats() const {
  std::uint64_t product = 1;
  for (std::uint64_t extent : shape) product *= extent;
  return product;
}

std::uint32_t TensorDefinition::chunks() const {
  std::uint64_t full = (floats() + limits::kTensorChunkFloats - 1) / limits::kTensorChunkFloats;
  return static_cast<std::uint32_t>(std::max<std::uint64_t>(full, 1));
}

std::uint64_t TensorDefinition::chunk_floats(std::uint32_t chunk) const {
  std::uint64_t first = std::uint64_t{chunk} * limits::kTensorChunkFloats;
  std::uint64_t all = floats();
  return first >= all ? 0 : std::min<std::uint64_t>(all - first, limits::kTensorChunkFloats);
}

const TableDefinition* ClusterDefinition::FindTable(const std::string& name) const {
  for (const TableDefinition& table : tables) {
    if (table.name == name && !table.dropped) return &table;
  }
  return nullptr;
}

const TensorDefinition* ClusterDefinition::FindTensor(const std::string& name) const {
  for (const TensorDefinition& tensor : tensors) {
    if (tensor.name == name && !tensor.dropped) return &tensor;
  }
  return nullptr;
}

std::string ClusterDefinition::ToJson() const {
  Json json{{"version", version},
            {"seed", seed},
            {"weight_optimizer", ToJsonValue(weight_optimizer)},
            {"map", ToJsonValue(map)},
            {"weight_replicas", weight_copies.copies},
            {"lost", weight_copies.lost},
            {"tables", Json::array()},
            {"tensors", Json::array()}};
  for (const TableDefinition& table : tables) json["tables"].push_back(ToJsonValue(table));
  for (const TensorDefinition& tensor : tensors) json["tensors"].push_back(ToJsonValue(tensor));
  return Dump(json);
}

Result<ClusterDefinition> ClusterDefinition::FromJson(const std::string& json) {
  PS_ASSIGN_OR_RETURN(Json parsed, ParseObject(json));
  ClusterDefinition definition;
  PS_ASSIGN_OR_RETURN(definition.version, GetUnsigned(parsed, "version"));
  PS_ASSIGN_OR_RETURN(definition.seed, GetUnsigned(parsed, "seed"));
  PS_ASSIGN_OR_RETURN(const Json* optimizer, GetObject(parsed, "weight_optimizer"));
  PS_ASSIGN_OR_RETURN(definition.weight_optimizer, OptimizerFromValue(*optimizer));
  PS_ASSIGN_OR_RETURN(const Json* map, GetObject(parsed, "map"));
  PS_ASSIGN_OR_RETURN(definition.map, MapFromValue(*map));
  PS_ASSIGN_OR_RETURN(definition.weight_copies,
                      CopiesFromValue(parsed, definition.map.server_count));
  PS_ASSIGN_OR_RETURN(const Json* tables, GetArray(parsed, "tables", limits::kTablesMax));
  for (const Json& table : *tables) {
    PS_ASSIGN_OR_RETURN(TableDefinition one, TableFromValue(table));
    definition.tables.push_back(std::move(one));
  }
  PS_ASSIGN_OR_RETURN(const Json* tensors, GetArray(parsed, "tensors", limits::kTensorsMax));
  for (const Json& tensor : *tensors) {
    PS_ASSIGN_OR_RETURN(TensorDefinition one, TensorFromValue(tensor));
    definition.tensors.push_back(std::move(one));
  }
  PS_RETURN_IF_ERROR(CheckNumbering("table", definition.tables));
  PS_RETURN_IF_ERROR(CheckNumbering("dense tensor", definition.tensors));
  return definition;
}

std::string TableToJson(const TableDefinition& table) { return Dump(ToJsonValue(table)); }

Result<TableDefinition> TableFromJson(const std::string& json) {
  PS_ASSIGN_OR_RETURN(Json parsed, ParseObject(json));
  return TableFromValue(parsed);
}

Result<TensorDefinition> TensorFromJson(const std::string& json) {
  PS_ASSIGN_OR_RETURN(Json parsed, ParseObject(json));
  return TensorFromValue(parsed);
}

Result<OptimizerDefinition> OptimizerFromJson(const std::string& json) {
  PS_ASSIGN_OR_RETURN(Json parsed, ParseObject(json));
  return OptimizerFromValue(parsed);
}

}  // namespace ps::sharding
