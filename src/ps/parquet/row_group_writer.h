#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ps/base/status.h"
#include "ps/parquet/page.h"

namespace ps::parquet {

// Makes row groups: each column is one page (version 2, plain, no nulls), whose values are packed
// from where they lie by one call of the codec. One thread at a time.
class RowGroupWriter {
 public:
  static constexpr int kZstdLevel = 1;

  RowGroupWriter(std::vector<Column> columns, Codec codec);
  ~RowGroupWriter();
  RowGroupWriter(const RowGroupWriter&) = delete;
  RowGroupWriter& operator=(const RowGroupWriter&) = delete;

  struct RowGroup {
    std::shared_ptr<const char[]> bytes;  // used again by the next call when nobody else has it
    std::size_t size = 0;
    std::string entry;  // the struct RowGroup of the file's footer
  };

  // `rows` rows, at least one; values[i]: of column i, one after the other, rows * items * width
  // bytes. `position`: of the row group in the file; `ordinal`: its number there.
  // InvalidArgument: a page of 2 GiB or more, which Parquet has not.
  Result<RowGroup> Write(std::span<const char* const> values, std::size_t rows,
                         std::int64_t position, std::size_t ordinal);

  const std::vector<Column>& columns() const { return columns_; }

 private:
  struct Chunk;  // a column of the row group being made
  struct Zstd;

  std::size_t Bound(std::size_t rows) const;
  Result<std::size_t> Pack(const char* values, std::size_t bytes, char* out,
                           std::size_t room) const;
  Status WritePage(const Column& column, const char* values, std::size_t rows, std::size_t* at,
                   Chunk* chunk);
  std::string Entry(std::span<const Chunk> chunks, std::span<const char* const> values,
                    std::size_t rows, std::int64_t position, std::size_t ordinal) const;

  const std::vector<Column> columns_;
  const Codec codec_;
  const std::unique_ptr<Zstd> zstd_;  // its tables, used again; null with another codec
  std::shared_ptr<char[]> memory_;
  std::size_t memory_bytes_ = 0;
};

}  // namespace ps::parquet
