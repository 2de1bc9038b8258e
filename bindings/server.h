#pragma once

#include <nanobind/nanobind.h>

namespace ps::bindings {

// Server and Coordinator.
void BindServer(nanobind::module_& module);

}  // namespace ps::bindings
