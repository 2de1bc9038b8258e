#include "ps/store/key_index.h"

#include <algorithm>
#include <new>
#include <utility>

namespace ps::store {
namespace {

constexpr std::uint16_t kOverflowMax = 0xffff;
constexpr std::uint32_t kAllSlots = (1u << IndexBucket::kSlots) - 1;
constexpr std::align_val_t kLine{alignof(IndexBucket)};

}  // namespace

KeyIndex& KeyIndex::operator=(KeyIndex&& other) noexcept {
  assert(chunks_ == nullptr);
  chunks_ = std::exchange(other.chunks_, nullptr);
  buckets_ = std::exchange(other.buckets_, 0);
  rows_ = std::exchange(other.rows_, 0);
  rows_max_ = std::exchange(other.rows_max_, 0);
  chunks_capacity_ = std::exchange(other.chunks_capacity_, 0);
  return *this;
}

std::size_t KeyIndex::memory_bytes() const {
  return buckets_ * sizeof(IndexBucket) + chunks_capacity_ * sizeof(IndexBucket*);
}

void KeyIndex::Insert(std::uint64_t hash, RowNumber row) {
  assert(!full());
  std::uint32_t number = Home(hash);
  IndexBucket* bucket = MutableBucket(number);
  while (bucket->occupied == kAllSlots) {
    if (bucket->overflow != kOverflowMax) ++bucket->overflow;
    number = Next(number);
    bucket = MutableBucket(number);
  }
  const int slot = std::countr_one(bucket->occupied);
  bucket->occupied = static_cast<std::uint16_t>(bucket->occupied | (1u << slot));
  bucket->tags[slot] = Tag(hash);
  bucket->rows[slot] = row;
  ++rows_;
}

void KeyIndex::Remove(std::uint64_t hash, RowNumber row) {
  for (std::uint32_t number = Home(hash);; number = Next(number)) {
    IndexBucket* bucket = MutableBucket(number);
    for (std::uint32_t m = bucket->Match(Tag(hash)); m != 0; m &= m - 1) {
      const int slot = std::countr_zero(m);
      if (bucket->rows[slot] != row) continue;
      bucket->occupied = static_cast<std::uint16_t>(bucket->occupied & ~(1u << slot));
      --rows_;
      return;
    }
    assert(bucket->overflow > 0);
    if (bucket->overflow != kOverflowMax) --bucket->overflow;
  }
}

void KeyIndex::Grow(PagePool* pool) {
  // A quarter more while small, an eighth in whole chunks later.
  const std::uint32_t small = buckets_ + std::max(1u, buckets_ / 4);
  if (small < kBucketsPerChunk) {
    SetBlock(small);
  } else {
    const std::uint32_t chunks = buckets_ / kBucketsPerChunk;
    SetChunks(in_chunks() ? chunks + std::max(1u, chunks / 8) : 1, pool);
  }
  rows_ = 0;
  const std::uint64_t slots = std::uint64_t{buckets_} * IndexBucket::kSlots;
  rows_max_ = static_cast<std::uint32_t>(slots - (slots + 15) / 16);
}

void KeyIndex::SetBlock(std::uint32_t buckets) {
  if (chunks_ == nullptr) {
    chunks_ = new IndexBucket*[1]{nullptr};
    chunks_capacity_ = 1;
  }
  ::operator delete(chunks_[0], kLine);
  chunks_[0] = static_cast<IndexBucket*>(::operator new(buckets * sizeof(IndexBucket), kLine));
  buckets_ = buckets;
  std::memset(static_cast<void*>(chunks_[0]), 0, buckets * sizeof(IndexBucket));
}

void KeyIndex::SetChunks(std::uint32_t chunks, PagePool* pool) {
  const std::uint32_t held = in_chunks() ? buckets_ / kBucketsPerChunk : 0;
  if (held == 0 && chunks_ != nullptr) ::operator delete(chunks_[0], kLine);
  if (chunks > chunks_capacity_) {
    const std::uint32_t capacity = std::max(chunks, chunks_capacity_ + chunks_capacity_ / 4);
    auto** larger = new IndexBucket*[capacity];
    std::copy_n(chunks_, held, larger);
    delete[] chunks_;
    chunks_ = larger;
    chunks_capacity_ = capacity;
  }
  for (std::uint32_t i = held; i < chunks; ++i) {
    chunks_[i] = static_cast<IndexBucket*>(pool->AllocateChunk());
  }
  buckets_ = chunks * kBucketsPerChunk;
  for (std::uint32_t i = 0; i < chunks; ++i) {
    std::memset(static_cast<void*>(chunks_[i]), 0, PagePool::kChunkBytes);
  }
}

void KeyIndex::Release(PagePool* pool) {
  if (chunks_ == nullptr) return;
  if (in_chunks()) {
    for (std::uint32_t i = 0; i < buckets_ / kBucketsPerChunk; ++i) pool->FreeChunk(chunks_[i]);
  } else {
    ::operator delete(chunks_[0], kLine);
  }
  delete[] chunks_;
  chunks_ = nullptr;
  buckets_ = rows_ = rows_max_ = chunks_capacity_ = 0;
}

}  // namespace ps::store
