#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "ps/base/types.h"
#include "ps/optimizers/optimizer.h"
#include "ps/store/embedding_store.h"

namespace ps::store {

// Of what a table's rows consist outside the store.
struct RowShape {
  std::uint32_t dim = 0;
  std::vector<optimizers::Optimizer::StatePart> states;  // none: rows without optimizer state

  static RowShape Of(const EmbeddingStore& store, bool with_states);
};

// Rows as columns, each one run of memory aligned to 64 bytes.
class RowBlock {
 public:
  // Columns kFirstState + i: state part i.
  enum Column : std::size_t { kKey, kPartition, kCount, kLastDay, kVector, kFirstState };

  // `rows` rows of unspecified content.
  RowBlock(const RowShape& shape, std::size_t rows);

  std::size_t rows() const { return rows_; }
  std::size_t columns() const { return columns_.size(); }
  std::size_t bytes() const { return bytes_; }
  // Bytes of one row in a column: key 8, partition, count and last day 4 each, vector 4 * dim.
  std::size_t width(std::size_t column) const { return columns_[column].width; }
  char* column(std::size_t column) { return memory_.get() + columns_[column].offset; }
  const char* column(std::size_t column) const { return memory_.get() + columns_[column].offset; }

 private:
  struct Place {
    std::size_t width;
    std::size_t offset;
  };
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };

  const std::size_t rows_;
  std::vector<Place> columns_;
  std::size_t bytes_ = 0;
  std::unique_ptr<char, Free> memory_;
};

// A copy of all rows of one partition, at one moment. The store's thread only.
std::unique_ptr<RowBlock> CopyPartition(const EmbeddingStore& store, PartitionId partition,
                                        const RowShape& shape);

// The rows of all blocks (of one shape), one after the other.
std::unique_ptr<RowBlock> Concatenate(const RowShape& shape,
                                      std::span<const std::unique_ptr<RowBlock>> blocks);

}  // namespace ps::store
