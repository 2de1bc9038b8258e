#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "bindings/status.h"

namespace ps::bindings {

// Arrays as the core takes them: C-contiguous, of exactly this dtype, in main memory. Anything else
// is refused, never copied behind the caller's back.
template <typename T, std::size_t kDims>
using Array =
    nanobind::ndarray<T, nanobind::ndim<kDims>, nanobind::c_contig, nanobind::device::cpu>;
using KeyArray = Array<const std::uint64_t, 1>;
using FlatFloats = Array<const float, 1>;
using RowsIn = Array<const float, 2>;
using RowsOut = Array<float, 2>;

// `what` completes "... must be a C-contiguous array of ...".
template <typename A>
A Require(nanobind::handle object, const char* what) {
  A array;
  if (!nanobind::try_cast(object, array, /*convert=*/false)) {
    Throw(InvalidArgument(std::string(what) + ", C-contiguous, not " +
                          nanobind::cast<std::string>(nanobind::repr(object.type()))));
  }
  return array;
}

// A NumPy array of its own memory.
template <typename T>
using NumpyArray = nanobind::ndarray<nanobind::numpy, T, nanobind::ndim<1>>;

template <typename T>
NumpyArray<T> MakeArray(std::unique_ptr<T[]> values, std::size_t count) {
  T* data = values.get();
  nanobind::capsule owner(data, [](void* memory) noexcept { delete[] static_cast<T*>(memory); });
  values.release();
  return NumpyArray<T>(data, {count}, owner);
}

}  // namespace ps::bindings
