#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace ps::client {

// Position of the first NaN or infinite value; one pass, at the memory's speed.
std::optional<std::size_t> FindNonFinite(std::span<const float> values);

// Copies `count` floats and says whether all are finite. `for_others`: another process reads them
// next (base/stream_row.h; StreamFence is left to the caller).
bool CopyFinite(float* to, const float* from, std::size_t count, bool for_others);

}  // namespace ps::client
