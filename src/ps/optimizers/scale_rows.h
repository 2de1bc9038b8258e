#pragma once

#include <cstddef>

namespace ps::optimizers {

// Multiplies the first `dim` floats of each of the n rows by factor: the decay of every optimizer
// whose state does not depend on the values.
void ScaleRows(float* const* rows, std::size_t n, std::size_t dim, float factor);

}  // namespace ps::optimizers
