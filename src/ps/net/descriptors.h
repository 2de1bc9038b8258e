#pragma once

#include <cstddef>

namespace ps::net {

// Raises this process's limit on open descriptors to `wanted`, or as near to it as the system
// allows; never lowers it. Returns the limit that holds. A connection takes one descriptor.
std::size_t RaiseDescriptorLimit(std::size_t wanted);

}  // namespace ps::net
