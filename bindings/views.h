#pragma once

#include <nanobind/nanobind.h>

namespace ps::bindings {

// EmbeddingRows, WeightChunks, UpdateCounts: what a shard holds, in this process.
void BindViews(nanobind::module_& module);

}  // namespace ps::bindings
