#pragma once

#include <cstddef>
#include <cstdint>

#include "ps/optimizers/optimizer.h"
#include "ps/store/row_table.h"

namespace ps::store {

// Walks over every row of a table in slab order, in bounded steps with other work between them.
// A step handles at most `rows_max` places (0 = all) and returns true when the sweep has come round.
// Rows never move, so a row is met at most once in a sweep whatever happens between the steps; slabs
// and index segments found empty go back. Starting the other kind of sweep abandons the one under way.
class Sweeper {
 public:
  // Multiplies values (by the optimizer's rule) and counts by `factor`.
  bool Decay(RowTable* table, const optimizers::Optimizer& optimizer, std::size_t dim, float factor,
             std::size_t rows_max);
  // Takes out the rows with count < min_count; *pruned grows by their number.
  bool Prune(RowTable* table, float min_count, std::size_t rows_max, std::uint64_t* pruned);

  // The next step starts a new sweep.
  void Restart() { kind_ = Kind::kNone; }

 private:
  enum class Kind { kNone, kDecay, kPrune };

  void Begin(Kind kind);
  // on_row(segment, slab, row number, header) for each live row met.
  template <typename OnRow>
  bool Step(RowTable* table, std::size_t rows_max, OnRow&& on_row);

  Kind kind_ = Kind::kNone;
  std::uint32_t segment_ = 1;  // the next place to look at
  std::size_t slab_ = 0;
  std::uint32_t place_ = 0;
};

}  // namespace ps::store
