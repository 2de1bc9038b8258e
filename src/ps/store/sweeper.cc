#include "ps/store/sweeper.h"

#include <algorithm>
#include <array>
#include <limits>
#include <vector>

#include "ps/store/prefetch.h"

namespace ps::store {
namespace {

// Rows per call of the optimizer.
constexpr std::size_t kDecayBlock = 64;
// Rows asked for ahead of the sweep, a few at a time.
constexpr std::size_t kAheadRows = 24;
constexpr std::size_t kAheadRowsAtOnce = 8;
// Of a wide row the processor fetches the rest by itself.
constexpr std::size_t kAheadBytesMax = 1024;

}  // namespace

void Sweeper::Begin(Kind kind) {
  if (kind_ == kind) return;
  kind_ = kind;
  next_ = Place();
}

void Sweeper::Ask(const RowTable& table, std::size_t rows, std::size_t bytes, Place* ahead) {
  const RowArena& arena = table.arena();
  while (rows > 0 && ahead->segment <= table.segments()) {
    const std::vector<RowChain::Slab>& slabs = table.chain(ahead->segment).slabs();
    if (ahead->slab >= slabs.size()) {
      *ahead = Place{ahead->segment + 1, 0, 0};
      continue;
    }
    const RowChain::Slab& slab = slabs[ahead->slab];
    if (ahead->row >= slab.used) {
      *ahead = Place{ahead->segment, ahead->slab + 1, 0};
      continue;
    }
    const std::size_t n = std::min<std::size_t>(rows, slab.used - ahead->row);
    const char* at = arena.Row(slab.first + ahead->row);
    for (std::size_t i = 0; i < n; ++i, at += arena.stride_bytes()) {
      for (std::size_t line = 0; line < bytes; line += 64) Prefetch(at + line);
    }
    ahead->row += static_cast<std::uint32_t>(n);
    rows -= n;
  }
}

template <typename OnRow>
bool Sweeper::Step(RowTable* table, std::size_t rows_max, std::size_t bytes, OnRow&& on_row) {
  std::size_t left = rows_max == 0 ? std::numeric_limits<std::size_t>::max() : rows_max;
  const RowArena& arena = table->arena();
  const std::size_t stride = arena.stride_bytes();
  bytes = std::min(bytes, kAheadBytesMax);
  Place ahead = next_;
  Ask(*table, std::min(left, kAheadRows), bytes, &ahead);
  for (; next_.segment <= table->segments(); next_ = Place{next_.segment + 1, 0, 0}) {
    const RowChain& chain = table->chain(next_.segment);
    while (next_.slab < chain.slabs().size()) {
      if (left == 0) return false;
      const RowChain::Slab& slab = chain.slabs()[next_.slab];
      while (next_.row < slab.used && left > 0) {
        const auto n = static_cast<std::uint32_t>(
            std::min({std::size_t{slab.used} - next_.row, left, kAheadRowsAtOnce}));
        Ask(*table, n, bytes, &ahead);
        char* at = arena.Row(slab.first + next_.row);
        for (std::uint32_t i = 0; i < n; ++i, at += stride) {
          auto* header = reinterpret_cast<RowHeader*>(at);
          if (IsLive(header)) on_row(next_.segment, next_.slab, slab.first + next_.row + i, header);
        }
        next_.row += n;
        left -= n;
      }
      if (next_.row < slab.used) return false;
      next_.row = 0;
      if (slab.live == 0) {
        table->EraseEmptySlab(next_.segment, next_.slab);
        if (ahead.segment == next_.segment && ahead.slab > next_.slab) --ahead.slab;
      } else {
        ++next_.slab;
      }
    }
    table->ReleaseIndexIfEmpty(next_.segment);
  }
  Restart();
  return true;
}

bool Sweeper::Decay(RowTable* table, const optimizers::Optimizer& optimizer, std::size_t dim,
                    float factor, std::size_t rows_max) {
  Begin(Kind::kDecay);
  std::array<float*, kDecayBlock> rows;
  std::size_t n = 0;
  const bool round = Step(table, rows_max, sizeof(RowHeader) + dim * sizeof(float),
                          [&](std::uint32_t, std::size_t, RowNumber, RowHeader* header) {
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

bool Sweeper::Prune(RowTable* table, float min_count, std::size_t rows_max, std::uint64_t* pruned) {
  Begin(Kind::kPrune);
  std::uint32_t index_asked_for = 0;
  return Step(table, rows_max, sizeof(RowHeader),
              [&](std::uint32_t segment, std::size_t slab, RowNumber row, RowHeader* header) {
                if (header->count >= min_count) return;
                if (segment != index_asked_for) table->AskForIndex(segment);
                index_asked_for = segment;
                table->RemoveAt(segment, slab, row);
                ++*pruned;
              });
}

}  // namespace ps::store
