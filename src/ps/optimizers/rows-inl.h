// The loop over rows that every optimizer shares, compiled once for each SIMD target. Included by
// files that ran hwy/foreach_target.h; the guard toggles with each target, as in Highway itself.
#if defined(PS_OPTIMIZERS_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PS_OPTIMIZERS_ROWS_INL_H_
#undef PS_OPTIMIZERS_ROWS_INL_H_
#else
#define PS_OPTIMIZERS_ROWS_INL_H_
#endif

#include <cstddef>
#include <type_traits>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace ps::optimizers {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// A kernel holds the hyper-parameters as plain floats and has
//   Row StartRow(float* values, std::size_t dim) const    what one row needs beyond them
//   void Step(D d, Row row, const float* grad, float* values, std::size_t dim) const
// Step updates Lanes(d) elements; part k of the state of the element at `values` lies at
// values + (k + 1) * dim.
struct NoRowData {};

// Elements [i, dim) as far as whole vectors of `d` go; returns where it stopped.
template <class D, class Kernel, class Row, class Dim>
HWY_INLINE std::size_t UpdateVectors(D d, const Kernel& kernel, const Row& row, const float* grad,
                                     float* values, Dim dim, std::size_t i) {
  for (; i + hn::Lanes(d) <= dim; i += hn::Lanes(d)) {
    kernel.Step(d, row, grad + i, values + i, dim);
  }
  return i;
}

template <class Kernel, class Dim>
HWY_INLINE void UpdateRow(const Kernel& kernel, const float* grad, float* values, Dim dim) {
  const auto row = kernel.StartRow(values, dim);
  std::size_t i = UpdateVectors(hn::ScalableTag<float>(), kernel, row, grad, values, dim, 0);
  if (i == dim) return;
  if constexpr (HWY_MAX_BYTES > 32) {
    i = UpdateVectors(hn::CappedTag<float, 8>(), kernel, row, grad, values, dim, i);
  }
  if constexpr (HWY_MAX_BYTES > 16) {
    i = UpdateVectors(hn::CappedTag<float, 4>(), kernel, row, grad, values, dim, i);
  }
  UpdateVectors(hn::CappedTag<float, 1>(), kernel, row, grad, values, dim, i);
}

template <class Kernel, class Dim>
HWY_INLINE void UpdateRowsOfDim(const Kernel kernel, float* const* rows, const float* const* grads,
                                std::size_t n, Dim dim) {
  for (std::size_t r = 0; r < n; ++r) UpdateRow(kernel, grads[r], rows[r], dim);
}

// The small dims of embeddings are unrolled: at dim 16 a row is two vectors of AVX2.
template <class Kernel>
HWY_INLINE void UpdateRows(const Kernel kernel, float* const* rows, const float* const* grads,
                           std::size_t n, std::size_t dim) {
  using std::integral_constant;
  switch (dim) {
    case 4:
      return UpdateRowsOfDim(kernel, rows, grads, n, integral_constant<std::size_t, 4>());
    case 8:
      return UpdateRowsOfDim(kernel, rows, grads, n, integral_constant<std::size_t, 8>());
    case 16:
      return UpdateRowsOfDim(kernel, rows, grads, n, integral_constant<std::size_t, 16>());
    case 32:
      return UpdateRowsOfDim(kernel, rows, grads, n, integral_constant<std::size_t, 32>());
    default:
      return UpdateRowsOfDim(kernel, rows, grads, n, dim);
  }
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace ps::optimizers
HWY_AFTER_NAMESPACE();

#endif
