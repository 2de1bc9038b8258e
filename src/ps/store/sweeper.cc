#include "ps/store/sweeper.h"

#include <algorithm>
#include <array>
#include <limits>

namespace ps::store {
namespace {

// Rows per call of the optimizer.
constexpr std::size_t kDecayBlock = 64;
// How far ahead rows are asked for: slabs are short, the processor's own prefetcher starts anew in each.
constexpr std::size_t kAheadBytes = 1024;

float* Values(RowHeader* header) { return reinterpret_cast<float*>(header + 1); }

}  // namespace

void Sweeper::Begin(Kind kind) {
  if (kind_ == kind) return;
  kind_ = kind;
  segment_ = 1;
  slab_ = 0;
  place_ = 0;
}

template <typename OnRow>
bool Sweeper::Step(RowTable* table, std::size_t rows_max, OnRow&& on_row) {
  std::size_t left = rows_max == 0 ? std::numeric_limits<std::size_t>::max() : rows_max;
  const RowArena& arena = table->arena();
  const std::size_t stride = arena.stride_bytes();
  for (; segment_ <= table->segments(); ++segment_, slab_ = 0) {
    const RowChain& chain = table->chain(segment_);
    while (slab_ < chain.slabs().size()) {
      if (left == 0) return false;
      const RowChain::Slab& slab = chain.slabs()[slab_];
      const auto end = static_cast<std::uint32_t>(std::min<std::size_t>(slab.used, place_ + left));
      left -= end - place_;
      char* at = arena.Row(slab.first + place_);
      for (; place_ < end; ++place_, at += stride) {
        for (std::size_t line = 0; line < stride; line += 64) {
          __builtin_prefetch(at + kAheadBytes + line);
        }
        auto* header = reinterpret_cast<RowHeader*>(at);
        if (IsLive(header)) on_row(segment_, slab_, slab.first + place_, header);
      }
      if (place_ < slab.used) return false;
      place_ = 0;
      if (slab.live == 0) {
        table->EraseEmptySlab(segment_, slab_);
      } else {
        ++slab_;
      }
    }
    table->ReleaseIndexIfEmpty(segment_);
  }
  Restart();
  return true;
}

bool Sweeper::Decay(RowTable* table, const optimizers::Optimizer& optimizer, std::size_t dim,
                    float factor, std::size_t rows_max) {
  Begin(Kind::kDecay);
  std::array<float*, kDecayBlock> rows;
  std::size_t n = 0;
  const bool round = Step(
      table, rows_max, [&](std::uint32_t, std::size_t, RowNumber, RowHeader* header) {
        header->count *= factor;
        rows[n++] = Values(header);
        if (n == kDecayBlock) {
          optimizer.Decay(rows.data(), n, dim, factor);
          n = 0;
        }
      });
  if (n > 0) optimizer.Decay(rows.data(), n, dim, factor);
  return round;
}

bool Sweeper::Prune(RowTable* table, float min_count, std::size_t rows_max,
                    std::uint64_t* pruned) {
  Begin(Kind::kPrune);
  return Step(table, rows_max,
              [&](std::uint32_t segment, std::size_t slab, RowNumber row, RowHeader* header) {
                if (header->count >= min_count) return;
                table->RemoveAt(segment, slab, row);
                ++*pruned;
              });
}

}  // namespace ps::store
