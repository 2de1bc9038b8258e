#pragma once

#include <cstddef>
#include <cstdint>

#include "ps/base/types.h"

namespace ps::store {

// Head of every row; values[dim] and state[state_floats] follow at once.
struct RowHeader {
  Key key;
  float count;       // times pushed, plus one for the creation; exact to 2^24; decays by the factor
  UnixDay last_day;  // day of the last push (of the creation when never pushed)
};
static_assert(sizeof(RowHeader) == 16);

inline float* Values(RowHeader* header) { return reinterpret_cast<float*>(header + 1); }
inline const float* Values(const RowHeader* header) {
  return reinterpret_cast<const float*>(header + 1);
}

// Bytes from one row to the next: header + values + state, rounded up to 16.
constexpr std::size_t RowStrideBytes(std::size_t dim, std::size_t state_floats) {
  return (sizeof(RowHeader) + (dim + state_floats) * sizeof(float) + 15) / 16 * 16;
}

}  // namespace ps::store
