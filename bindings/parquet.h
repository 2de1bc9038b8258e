#pragma once

#include <nanobind/nanobind.h>

namespace ps::bindings {

// RowGroupWriter and RowGroupReader.
void BindParquet(nanobind::module_& module);

}  // namespace ps::bindings
