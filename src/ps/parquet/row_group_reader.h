#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "ps/base/status.h"
#include "ps/parquet/page.h"

namespace ps::parquet {

// Unpacks row groups that RowGroupWriter made. Thread-safe.
class RowGroupReader {
 public:
  explicit RowGroupReader(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // Where a column's page lies in the row group, header included, and where its values shall go:
  // rows * items * width bytes, or nowhere (null).
  struct Chunk {
    std::span<const char> page;
    char* out = nullptr;
  };
  // False: at least one page is not as RowGroupWriter makes it; some values may have been written.
  // DataCorruption: a page cannot be unpacked.
  Result<bool> Read(std::span<const Chunk> chunks, Codec codec, std::size_t rows) const;

  const std::vector<Column>& columns() const { return columns_; }

 private:
  const std::vector<Column> columns_;
};

}  // namespace ps::parquet
