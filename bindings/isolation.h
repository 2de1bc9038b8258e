#pragma once

#include <nanobind/nanobind.h>

namespace ps::bindings {

// symbol_origins.
void BindIsolation(nanobind::module_& module);

}  // namespace ps::bindings
