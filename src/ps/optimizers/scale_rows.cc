#include "ps/optimizers/scale_rows.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ps/optimizers/scale_rows.cc"
#include <hwy/foreach_target.h>  // compiles this file once for each SIMD target

#include <hwy/highway.h>

#include "ps/optimizers/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace ps::optimizers {
namespace HWY_NAMESPACE {
namespace {

struct ScaleKernel {
  float factor;

  NoRowData StartRow(const float*, std::size_t) const { return {}; }

  template <class D>
  HWY_INLINE void Step(D d, NoRowData, const float*, float* values, std::size_t) const {
    hn::StoreU(hn::Mul(hn::LoadU(d, values), hn::Set(d, factor)), d, values);
  }
};

void ScaleRowsSimd(float* const* rows, std::size_t n, std::size_t dim, float factor) {
  // The kernel reads no gradients; the rows stand in for them.
  UpdateRows(ScaleKernel{factor}, rows, rows, n, dim);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace ps::optimizers
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace ps::optimizers {

HWY_EXPORT(ScaleRowsSimd);

void ScaleRows(float* const* rows, std::size_t n, std::size_t dim, float factor) {
  HWY_DYNAMIC_DISPATCH(ScaleRowsSimd)(rows, n, dim, factor);
}

}  // namespace ps::optimizers
#endif
