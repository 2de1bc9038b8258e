#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace ps::client {

// Position of the first NaN or infinite value; one pass, at the memory's speed.
std::optional<std::size_t> FindNonFinite(std::span<const float> values);

}  // namespace ps::client
