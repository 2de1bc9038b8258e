#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "ps/base/hash.h"
#include "ps/base/status.h"
#include "ps/base/types.h"
#include "ps/sharding/copies.h"
#include "ps/sharding/partition_map.h"

namespace ps::sharding {

// An optimizer by name and parameters, defaults filled in by whoever defines (the driver).
struct OptimizerDefinition {
  std::string name;
  std::map<std::string, double> params;
  bool operator==(const OptimizerDefinition&) const = default;
};

struct TableDefinition {
  TableId id = 0;
  std::string name;
  std::uint32_t dim = 0;
  OptimizerDefinition optimizer;
  std::string init;  // "zeros", "random", "normal"
  double init_scale = 0.01;
  // A load put another table under its name, or none: rows of this number are served no more.
  bool dropped = false;

  std::uint64_t salt() const { return HashBytes(name); }
  bool SameAs(const TableDefinition& other) const;  // all but the id
};

struct TensorDefinition {
  TensorId id = 0;
  std::string name;
  std::vector<std::uint64_t> shape;  // empty: a scalar
  bool dropped = false;              // as a table's

  std::uint64_t salt() const { return HashBytes(name); }
  std::uint64_t floats() const;  // product of the shape
  std::uint32_t chunks() const;  // at least 1; a tensor without floats has one empty chunk
  // Floats of one chunk: limits::kTensorChunkFloats, the last one what is left.
  std::uint64_t chunk_floats(std::uint32_t chunk) const;
};

// All that servers and clients must agree on. The coordinator makes it and alone changes it;
// servers store it; clients ask any server for it. Grows only: ids are indices into the vectors,
// and what was dropped keeps its own. Names are distinct among those that were not.
struct ClusterDefinition {
  std::uint64_t version = 0;
  std::uint64_t seed = 0;
  OptimizerDefinition weight_optimizer;
  PartitionMap map;
  Copies weight_copies;  // of dense tensors; a chunk's home is what the map says
  std::vector<TableDefinition> tables;
  std::vector<TensorDefinition> tensors;

  const TableDefinition* FindTable(const std::string& name) const;    // null: none
  const TensorDefinition* FindTensor(const std::string& name) const;  // null: none

  std::string ToJson() const;
  // Checks every number and name against limits.h; DataCorruption or InvalidArgument.
  static Result<ClusterDefinition> FromJson(const std::string& json);
};

std::string TableToJson(const TableDefinition& table);
Result<TableDefinition> TableFromJson(const std::string& json);  // id may be missing (0)
Result<TensorDefinition> TensorFromJson(const std::string& json);
Result<OptimizerDefinition> OptimizerFromJson(const std::string& json);

}  // namespace ps::sharding
