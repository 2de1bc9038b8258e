#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "bench/huge_pages.h"
#include "bench/turns.h"
#include "ps/base/stream_row.h"
#include "ps/optimizers/adagrad.h"
#include "ps/store/row_layout.h"
#include "ps/store/row_visit.h"

namespace ps::bench {

// The rows of a table of Adagrad in huge pages, in the order of keys that have nothing to do with
// where they lie, and one gradient and one place to copy to for each: what a request costs a
// machine whose index and sockets cost nothing. One thread does all, or two a half each.
class KnownRows {
 public:
  KnownRows(std::size_t rows, std::size_t dim)
      : dim_(dim),
        stride_floats_(store::RowStrideBytes(dim, dim) / sizeof(float)),
        table_(rows * stride_floats_, 0.1f),
        grads_(rows * dim, 1e-3f),
        copies_(rows * dim),
        rows_(rows),
        adagrad_(optimizers::Adagrad::Create({"adagrad", {}}).value()) {
    std::vector<std::size_t> places(rows);
    std::iota(places.begin(), places.end(), 0);
    std::shuffle(places.begin(), places.end(), std::mt19937_64(1));
    for (std::size_t i = 0; i < rows; ++i) {
      rows_[i] = table_.data() + places[i] * stride_floats_ + kHeaderFloats;
    }
  }

  // Adagrad's step on each row, its header changed as by a push.
  void Update(Crew& crew) {
    const RowPrefetch prefetch((kHeaderFloats + 2 * dim_) * sizeof(float));
    ForBlocks(crew, [&](std::size_t first, std::size_t last, std::size_t end) {
      std::array<const float*, kBlock> grads;
      for (std::size_t i = first; i < last; ++i) {
        if (i + kBlock < end) prefetch(HeaderOf(i + kBlock));
        grads[i - first] = grads_.data() + i * dim_;
        reinterpret_cast<store::RowHeader*>(rows_[i] - kHeaderFloats)->count += 1;
      }
      adagrad_->Apply(rows_.data() + first, grads.data(), last - first, dim_, 1);
    });
  }

  // Each row's values copied around the caches, as into memory shared with a client.
  void Gather(Crew& crew) {
    const RowPrefetch prefetch((kHeaderFloats + dim_) * sizeof(float));
    ForBlocks(crew, [&](std::size_t first, std::size_t last, std::size_t end) {
      for (std::size_t i = first; i < last; ++i) {
        if (i + kBlock < end) prefetch(HeaderOf(i + kBlock));
        StreamRow(copies_.data() + i * dim_, rows_[i], dim_);
      }
      StreamFence();
    });
  }

 private:
  using RowPrefetch = store::RowPrefetch;
  static constexpr std::size_t kHeaderFloats = sizeof(store::RowHeader) / sizeof(float);
  static constexpr std::size_t kBlock = 16;

  const char* HeaderOf(std::size_t i) const {
    return reinterpret_cast<const char*>(rows_[i] - kHeaderFloats);
  }

  // each(first, last, end): rows [first, last), of a half that ends at `end`.
  template <typename Each>
  void ForBlocks(Crew& crew, Each&& each) {
    crew.Run([&](int half) {
      const std::size_t middle = rows_.size() / 2;
      const std::size_t end = half == 0 ? middle : rows_.size();
      for (std::size_t at = half == 0 ? 0 : middle; at < end; at += kBlock) {
        each(at, std::min(at + kBlock, end), end);
      }
    });
  }

  const std::size_t dim_;
  const std::size_t stride_floats_;
  HugeVector<float> table_;
  HugeVector<float> grads_;
  HugeVector<float> copies_;
  std::vector<float*> rows_;  // their values
  const std::unique_ptr<optimizers::Optimizer> adagrad_;
};

}  // namespace ps::bench
