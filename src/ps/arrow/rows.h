#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ps/arrow/export.h"
#include "ps/arrow/import.h"
#include "ps/store/snapshot.h"

namespace ps::arrow {

// A table's rows as record batches:
//   key uint64 · partition int32 · count float32 · last_day int32 (days since 1970) ·
//   vector FixedSizeList<float32>[dim] · each state part, under its name, FixedSizeBinary of its
//   float32 values as they lie in memory (little-endian)
Field RowsSchema(const store::RowShape& shape);
Batch RowsBatch(std::shared_ptr<const store::RowBlock> block);

// The columns of that schema that a table of this shape is loaded from, in this order: key, count,
// last_day, vector, states.
std::vector<ColumnSpec> RowsColumns(const store::RowShape& shape);
enum RowsColumn : std::size_t { kRowsKey, kRowsCount, kRowsLastDay, kRowsVector, kRowsFirstState };

}  // namespace ps::arrow
