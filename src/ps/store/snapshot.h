#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
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

// Memory of blocks that are gone, for those to come: pages new from the system cost more than
// copying rows into them. Thread-safe.
class BlockPool {
 public:
  // Gives back to the system what would make it hold more than `bytes_max` unused.
  explicit BlockPool(std::size_t bytes_max) : bytes_max_(bytes_max) {}
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  struct Memory {
    char* start = nullptr;  // aligned to 64 bytes
    std::size_t bytes = 0;
  };
  // At least `bytes`, and at most twice as many; of unspecified content.
  Memory Take(std::size_t bytes);
  void Give(Memory memory);

 private:
  const std::size_t bytes_max_;
  std::mutex mutex_;
  std::vector<Memory> unused_;
  std::size_t unused_bytes_ = 0;
};

// Rows as columns, each one run of memory aligned to 64 bytes.
class RowBlock {
 public:
  // Columns kFirstState + i: state part i.
  enum Column : std::size_t { kKey, kPartition, kCount, kLastDay, kVector, kFirstState };

  // `rows` rows of unspecified content, in memory that goes back to the pool with the block.
  RowBlock(const RowShape& shape, std::size_t rows, std::shared_ptr<BlockPool> pool);
  ~RowBlock() { pool_->Give(memory_); }
  RowBlock(const RowBlock&) = delete;
  RowBlock& operator=(const RowBlock&) = delete;

  std::size_t rows() const { return rows_; }
  std::size_t columns() const { return columns_.size(); }
  std::size_t bytes() const { return bytes_; }
  // Bytes of one row in a column: key 8, partition, count and last day 4 each, vector 4 * dim.
  std::size_t width(std::size_t column) const { return columns_[column].width; }
  char* column(std::size_t column) { return memory_.start + columns_[column].offset; }
  const char* column(std::size_t column) const { return memory_.start + columns_[column].offset; }

 private:
  struct Place {
    std::size_t width;
    std::size_t offset;
  };
  const std::size_t rows_;
  std::vector<Place> columns_;
  std::size_t bytes_ = 0;
  const std::shared_ptr<BlockPool> pool_;
  BlockPool::Memory memory_;
};

// A copy of all rows of one partition, at one moment. The store's thread only.
std::unique_ptr<RowBlock> CopyPartition(const EmbeddingStore& store, PartitionId partition,
                                        const RowShape& shape,
                                        const std::shared_ptr<BlockPool>& pool);

// The rows of all blocks (of one shape), one after the other.
std::unique_ptr<RowBlock> Concatenate(const RowShape& shape,
                                      std::span<const std::unique_ptr<RowBlock>> blocks,
                                      const std::shared_ptr<BlockPool>& pool);

}  // namespace ps::store
