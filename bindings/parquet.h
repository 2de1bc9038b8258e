#pragma once

#include <nanobind/nanobind.h>

namespace ps::bindings {

// RowGroupWriter.
void BindParquet(nanobind::module_& module);

}  // namespace ps::bindings
