#pragma once

#include <nanobind/nanobind.h>

namespace ps::bindings {

// partition_owners, optimizer_config.
void BindDefinitions(nanobind::module_& module);

}  // namespace ps::bindings
