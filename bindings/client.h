#pragma once

#include <nanobind/nanobind.h>

namespace ps::bindings {

// Client.
void BindClient(nanobind::module_& module);

}  // namespace ps::bindings
