#include "ps/arrow/rows.h"

namespace ps::arrow {
namespace {

using store::RowBlock;
using store::RowShape;

std::string VectorFormat(const RowShape& shape) { return "+w:" + std::to_string(shape.dim); }

std::string StateFormat(const optimizers::Optimizer::StatePart& part) {
  return "w:" + std::to_string(part.floats * sizeof(float));
}

}  // namespace

Field RowsSchema(const RowShape& shape) {
  Field record{"", "+s", {}};
  record.children = {{"key", "L", {}},
                     {"partition", "i", {}},
                     {"count", "f", {}},
                     {"last_day", "i", {}},
                     {"vector", VectorFormat(shape), {{"element", "f", {}}}}};
  for (const auto& part : shape.states) {
    record.children.push_back({part.name, StateFormat(part), {}});
  }
  return record;
}

Batch RowsBatch(std::shared_ptr<const RowBlock> block) {
  const auto rows = static_cast<std::int64_t>(block->rows());
  Batch batch;
  batch.array = {rows, {nullptr}, {}};
  for (std::size_t i = 0; i < block->columns(); ++i) {
    Array column{rows, {nullptr, block->column(i)}, {}};
    if (i == RowBlock::kVector) {
      const auto dim = static_cast<std::int64_t>(block->width(i) / sizeof(float));
      column.buffers = {nullptr};
      column.children.push_back({rows * dim, {nullptr, block->column(i)}, {}});
    }
    batch.array.children.push_back(std::move(column));
  }
  batch.memory = std::move(block);
  return batch;
}

std::vector<ColumnSpec> RowsColumns(const RowShape& shape) {
  std::vector<ColumnSpec> columns = {{"key", {"L"}, ""},
                                     {"count", {"f"}, ""},
                                     {"last_day", {"i", "I"}, ""},
                                     {"vector", {VectorFormat(shape)}, "f"}};
  for (const auto& part : shape.states) columns.push_back({part.name, {StateFormat(part)}, ""});
  return columns;
}

}  // namespace ps::arrow
