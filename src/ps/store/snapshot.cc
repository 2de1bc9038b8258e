#include "ps/store/snapshot.h"

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

namespace ps::store {
namespace {

constexpr std::size_t kAlignment = 64;

std::size_t Aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

template <typename T>
void Put(char* column, std::size_t row, T value) {
  std::memcpy(column + row * sizeof(T), &value, sizeof(T));
}

}  // namespace

RowShape RowShape::Of(const EmbeddingStore& store, bool with_states) {
  RowShape shape;
  shape.dim = store.spec().dim;
  if (with_states) shape.states = store.optimizer().StateParts(shape.dim);
  return shape;
}

BlockPool::~BlockPool() {
  for (const Memory& memory : unused_) std::free(memory.start);
}

BlockPool::Memory BlockPool::Take(std::size_t bytes) {
  {
    std::lock_guard lock(mutex_);
    const auto fits = [bytes](const Memory& m) { return m.bytes >= bytes && m.bytes / 2 <= bytes; };
    const auto found = std::find_if(unused_.rbegin(), unused_.rend(), fits);
    if (found != unused_.rend()) {
      const Memory memory = *found;
      *found = unused_.back();
      unused_.pop_back();
      unused_bytes_ -= memory.bytes;
      return memory;
    }
  }
  // An eighth more: partitions differ a little in size.
  const std::size_t rounded = Aligned(bytes + bytes / 8);
  char* start = static_cast<char*>(std::aligned_alloc(kAlignment, rounded));
  if (start == nullptr) throw std::bad_alloc();
  return {start, rounded};
}

void BlockPool::Give(Memory memory) {
  {
    std::lock_guard lock(mutex_);
    if (unused_bytes_ + memory.bytes <= bytes_max_) {
      unused_.push_back(memory);
      unused_bytes_ += memory.bytes;
      return;
    }
  }
  std::free(memory.start);
}

RowBlock::RowBlock(const RowShape& shape, std::size_t rows, std::shared_ptr<BlockPool> pool)
    : rows_(rows), pool_(std::move(pool)) {
  const auto add = [this](std::size_t width) {
    columns_.push_back({width, bytes_});
    bytes_ += Aligned(width * rows_);
  };
  add(sizeof(Key));
  add(sizeof(PartitionId));
  add(sizeof(float));
  add(sizeof(UnixDay));
  add(shape.dim * sizeof(float));
  for (const auto& part : shape.states) add(part.floats * sizeof(float));
  bytes_ = std::max(bytes_, kAlignment);
  memory_ = pool_->Take(bytes_);
}

std::unique_ptr<RowBlock> CopyPartition(const EmbeddingStore& store, PartitionId partition,
                                        const RowShape& shape,
                                        const std::shared_ptr<BlockPool>& pool) {
  auto block = std::make_unique<RowBlock>(shape, store.RowsIn(partition), pool);
  std::vector<char*> columns;
  for (std::size_t i = 0; i < block->columns(); ++i) columns.push_back(block->column(i));
  const std::size_t vector_bytes = block->width(RowBlock::kVector);
  std::size_t row = 0;
  store.VisitPartition(
      partition, [&](const RowHeader& header, const float* values, const float* state) {
        Put(columns[RowBlock::kKey], row, header.key);
        Put(columns[RowBlock::kPartition], row, partition);
        Put(columns[RowBlock::kCount], row, header.count);
        Put(columns[RowBlock::kLastDay], row, header.last_day);
        std::memcpy(columns[RowBlock::kVector] + row * vector_bytes, values, vector_bytes);
        for (std::size_t i = 0; i < shape.states.size(); ++i) {
          const std::size_t bytes = shape.states[i].floats * sizeof(float);
          std::memcpy(columns[RowBlock::kFirstState + i] + row * bytes, state, bytes);
          state += shape.states[i].floats;
        }
        ++row;
      });
  assert(row == block->rows());
  return block;
}

std::unique_ptr<RowBlock> Concatenate(const RowShape& shape,
                                      std::span<const std::unique_ptr<RowBlock>> blocks,
                                      const std::shared_ptr<BlockPool>& pool) {
  std::size_t rows = 0;
  for (const auto& block : blocks) rows += block->rows();
  auto all = std::make_unique<RowBlock>(shape, rows, pool);
  std::size_t row = 0;
  for (const auto& block : blocks) {
    for (std::size_t i = 0; i < all->columns(); ++i) {
      const std::size_t width = all->width(i);
      std::memcpy(all->column(i) + row * width, block->column(i), block->rows() * width);
    }
    row += block->rows();
  }
  return all;
}

}  // namespace ps::store
