#include "bindings/definitions.h"

#include <nanobind/stl/map.h>
#include <nanobind/stl/string.h>

#include <algorithm>

#include "bindings/arrays.h"
#include "ps/optimizers/optimizer.h"
#include "ps/sharding/partition_map.h"

namespace nb = nanobind;

namespace ps::bindings {
namespace {

NumpyArray<std::uint32_t> PartitionOwners(std::uint32_t server_count, std::uint32_t virtual_nodes,
                                          std::uint32_t partition_count) {
  auto map = Check(sharding::BuildPartitionMap(server_count, virtual_nodes, partition_count));
  auto owners = std::make_unique_for_overwrite<std::uint32_t[]>(map.owner.size());
  std::copy(map.owner.begin(), map.owner.end(), owners.get());
  return MakeArray(std::move(owners), map.owner.size());
}

std::map<std::string, double> FilledOptimizerParams(const std::string& name,
                                                    std::map<std::string, double> params) {
  auto optimizer = optimizers::Optimizer::Create({name, std::move(params)});
  if (!optimizer.ok()) Throw(Status(StatusCode::kConfiguration, optimizer.status().message()));
  return (*optimizer)->config().params;
}

}  // namespace

void BindDefinitions(nb::module_& module) {
  module.def("partition_owners", &PartitionOwners, nb::arg("server_count"),
             nb::arg("virtual_nodes"), nb::arg("partition_count"));
  module.def("optimizer_config", &FilledOptimizerParams, nb::arg("name"), nb::arg("params"));
}

}  // namespace ps::bindings
