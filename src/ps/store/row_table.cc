#include "ps/store/row_table.h"

#include <cassert>
#include <utility>

namespace ps::store {

RowTable::RowTable(std::shared_ptr<PagePool> pool, std::uint64_t salt, int partition_bits,
                   std::size_t stride_bytes)
    : pool_(std::move(pool)),
      salt_(salt),
      partition_bits_(partition_bits),
      arena_(pool_.get(), stride_bytes),
      directory_(std::size_t{1} << partition_bits, 0),
      indexes_(1),
      chains_(1) {}

std::uint32_t RowTable::SegmentFor(PartitionId partition) {
  std::uint32_t& segment = directory_[partition];
  if (segment == 0) {
    segment = static_cast<std::uint32_t>(indexes_.size());
    indexes_.emplace_back();
    chains_.emplace_back();
  }
  return segment;
}

RowHeader* RowTable::Create(Key key, std::uint64_t hash) {
  const std::uint32_t segment = SegmentFor(PartitionOf(hash, partition_bits_));
  if (indexes_[segment].full()) GrowIndex(segment);
  const RowNumber row = chains_[segment].AllocateRow(&arena_);
  indexes_[segment].Insert(hash, row);
  ++rows_;
  RowHeader* header = arena_.Header(row);
  header->key = key;
  return header;
}

void RowTable::GrowIndex(std::uint32_t segment) {
  KeyIndex& index = indexes_[segment];
  index.Grow(pool_.get());
  chains_[segment].ForEachLive(arena_, [&](RowNumber row, const RowHeader* header) {
    index.Insert(Hash(header->key), row);
  });
}

bool RowTable::Remove(Key key) {
  const std::uint64_t hash = Hash(key);
  const RowNumber row = FindNumber(key, hash);
  if (row == kNoRow) return false;
  const std::uint32_t segment = directory_[PartitionOf(hash, partition_bits_)];
  RemoveAt(segment, chains_[segment].SlabOf(row), row);
  return true;
}

void RowTable::RemoveAt(std::uint32_t segment, std::size_t slab, RowNumber row) {
  indexes_[segment].Remove(Hash(arena_.Header(row)->key), row);
  chains_[segment].FreeRow(&arena_, slab, row);
  --rows_;
}

void RowTable::EraseEmptySlab(std::uint32_t segment, std::size_t slab) {
  chains_[segment].EraseSlab(&arena_, slab);
}

void RowTable::ReleaseIndexIfEmpty(std::uint32_t segment) {
  if (chains_[segment].rows() == 0) indexes_[segment].Release(pool_.get());
}

void RowTable::Clear() {
  for (KeyIndex& index : indexes_) index.Release(pool_.get());
  indexes_ = std::vector<KeyIndex>(1);
  chains_ = std::vector<RowChain>(1);
  directory_.assign(directory_.size(), 0);
  arena_.Clear();
  rows_ = 0;
}

std::size_t RowTable::memory_bytes() const {
  std::size_t bytes = arena_.memory_bytes() + directory_.size() * sizeof(directory_[0]) +
                      indexes_.capacity() * sizeof(KeyIndex) +
                      chains_.capacity() * sizeof(RowChain);
  for (const KeyIndex& index : indexes_) bytes += index.memory_bytes();
  for (const RowChain& chain : chains_) bytes += chain.memory_bytes();
  return bytes;
}

}  // namespace ps::store
