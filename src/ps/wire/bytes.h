#pragma once

#include <bit>
#include <cstddef>
#include <cstring>

namespace ps::wire {

static_assert(std::endian::native == std::endian::little, "the wire is little-endian, as we are");

// A number at an offset of any alignment.
template <typename T>
T Get(const std::byte* in, std::size_t at) {
  T value;
  std::memcpy(&value, in + at, sizeof(value));
  return value;
}

template <typename T>
void Put(std::byte* out, std::size_t at, T value) {
  std::memcpy(out + at, &value, sizeof(value));
}

}  // namespace ps::wire
