#pragma once

#include <nanobind/nanobind.h>

namespace ps::bindings {

// Optimizer.
void BindOptimizers(nanobind::module_& module);

}  // namespace ps::bindings
