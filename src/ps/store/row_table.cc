#include "ps/store/row_table.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "ps/store/prefetch.h"

namespace ps::store {

RowTable::RowTable(std::shared_ptr<PagePool> pool, std::uint64_t salt, int partition_bits,
                   std::size_t stride_bytes)
    : pool_(std::move(pool)),
      salt_(salt),
      partition_bits_(partition_bits),
      arena_(pool_.get(), stride_bytes),
      indexes_(new KeyIndex[std::size_t{1} << partition_bits]),
      directory_(std::size_t{1} << partition_bits, 0),
      segments_(1) {}

RowTable::Segment& RowTable::SegmentFor(PartitionId partition) {
  std::uint32_t& segment = directory_[partition];
  if (segment == 0) {
    segment = static_cast<std::uint32_t>(segments_.size());
    segments_.push_back(Segment{partition, {}});
  }
  return segments_[segment];
}

RowHeader* RowTable::Create(Key key, std::uint64_t hash) {
  Segment& segment = SegmentFor(PartitionOf(hash, partition_bits_));
  KeyIndex& index = IndexOf(segment);
  if (index.full()) GrowIndex(segment, 1);
  const RowNumber row = segment.chain.AllocateRow(&arena_);
  index.Insert(hash, row);
  ++rows_;
  RowHeader* header = arena_.Header(row);
  header->key = key;
  return header;
}

void RowTable::MakeRoom(PartitionId partition, std::size_t rows) {
  const Segment& segment = SegmentFor(partition);
  if (!IndexOf(segment).has_room(rows)) GrowIndex(segment, rows);
}

void RowTable::GrowIndex(const Segment& segment, std::size_t more) {
  KeyIndex& index = IndexOf(segment);
  index.Grow(pool_.get(), more);
  segment.chain.ForEachLive(arena_, [&](RowNumber row, const RowHeader* header) {
    index.Insert(Hash(header->key), row);
  });
}

bool RowTable::Remove(Key key) {
  const std::uint64_t hash = Hash(key);
  const RowNumber row = FindNumber(key, hash);
  if (row == kNoRow) return false;
  const std::uint32_t segment = directory_[PartitionOf(hash, partition_bits_)];
  RemoveAt(segment, segments_[segment].chain.SlabOf(row), row);
  return true;
}

void RowTable::AskForIndex(std::uint32_t segment) const {
  constexpr std::uint32_t kBucketsMax = 1024;
  const KeyIndex& index = indexes_[segments_[segment].partition];
  const std::uint32_t buckets = std::min(index.bucket_count(), kBucketsMax);
  for (std::uint32_t b = 0; b < buckets; ++b) Prefetch(index.Bucket(b));
}

void RowTable::RemoveAt(std::uint32_t number, std::size_t slab, RowNumber row) {
  Segment& segment = segments_[number];
  IndexOf(segment).Remove(Hash(arena_.Header(row)->key), row);
  segment.chain.FreeRow(&arena_, slab, row);
  --rows_;
  epoch_.Advance();
}

void RowTable::EraseEmptySlab(std::uint32_t segment, std::size_t slab) {
  segments_[segment].chain.EraseSlab(&arena_, slab);
}

void RowTable::ReleaseIndexIfEmpty(std::uint32_t segment) {
  if (segments_[segment].chain.rows() == 0) IndexOf(segments_[segment]).Release(pool_.get());
}

void RowTable::Clear() {
  for (std::size_t p = 0; p < directory_.size(); ++p) indexes_[p].Release(pool_.get());
  segments_ = std::vector<Segment>(1);
  directory_.assign(directory_.size(), 0);
  arena_.Clear();
  rows_ = 0;
  epoch_.Advance();
}

std::size_t RowTable::memory_bytes() const {
  std::size_t bytes = arena_.memory_bytes() + segments_.capacity() * sizeof(Segment) +
                      directory_.size() * (sizeof(directory_[0]) + sizeof(KeyIndex));
  for (std::size_t p = 0; p < directory_.size(); ++p) bytes += indexes_[p].memory_bytes();
  for (const Segment& segment : segments_) bytes += segment.chain.memory_bytes();
  return bytes;
}

}  // namespace ps::store
