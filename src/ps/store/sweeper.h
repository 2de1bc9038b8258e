#pragma once

#include <cstddef>
#include <cstdint>

#include "ps/optimizers/optimizer.h"
#include "ps/store/row_table.h"

namespace ps::store {

// Walks over every row of a table in slab order, in bounded steps with other work between them.
// A step handles at most `rows_max` places (0 = all) and returns true when the sweep has come
// round. Rows never move, so a row is met at most once in a sweep whatever happens between the
// steps; slabs and index segments found empty go back. Starting the other kind of sweep abandons
// the one under way.
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

  // A place in a table's slabs. Slabs are short and lie apart, so a second place runs ahead of the
  // sweep and asks for the rows to come.
  struct Place {
    std::uint32_t segment = 1;
    std::size_t slab = 0;
    std::uint32_t row = 0;  // in the slab
  };

  void Begin(Kind kind);
  // Moves `ahead` over up to `rows` rows and asks for `bytes` of each.
  static void Ask(const RowTable& table, std::size_t rows, std::size_t bytes, Place* ahead);
  // on_row(segment, slab, row number, header) for each live row met; it needs `bytes` of the row.
  template <typename OnRow>
  bool Step(RowTable* table, std::size_t rows_max, std::size_t bytes, OnRow&& on_row);

  Kind kind_ = Kind::kNone;
  Place next_;  // to look at
};

}  // namespace ps::store
