#pragma once

#include <nanobind/nanobind.h>

namespace ps::bindings {

// gather_rows, sum_rows: the embedding look-ups of a batch, forward and backward.
void BindSegments(nanobind::module_& module);

}  // namespace ps::bindings
