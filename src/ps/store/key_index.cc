#include "ps/store/key_index.h"

#include <algorithm>
#include <new>

namespace ps::store {
namespace {

constexpr std::uint16_t kOverflowMax = 0xffff;
constexpr std::uint32_t kAllSlots = (1u << IndexBucket::kSlots) - 1;
constexpr std::align_val_t kLine{alignof(IndexBucket)};

}  // namespace

constinit const IndexBucket KeyIndex::kEmptyBucket{};

void KeyIndex::Insert(std::uint64_t hash, RowNumber row) {
  assert(!full());
  std::uint32_t number = Home(hash);
  IndexBucket* bucket = buckets_ + number;
  while (bucket->occupied == kAllSlots) {
    if (bucket->overflow != kOverflowMax) ++bucket->overflow;
    number = Next(number);
    bucket = buckets_ + number;
  }
  const int slot = std::countr_one(bucket->occupied);
  bucket->occupied = static_cast<std::uint16_t>(bucket->occupied | (1u << slot));
  bucket->tags[slot] = Tag(hash);
  bucket->rows[slot] = row;
  ++rows_;
}

void KeyIndex::Remove(std::uint64_t hash, RowNumber row) {
  for (std::uint32_t number = Home(hash);; number = Next(number)) {
    IndexBucket* bucket = buckets_ + number;
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

void KeyIndex::Grow(PagePool* pool, std::size_t more) {
  const auto needed =
      static_cast<std::uint32_t>((rows_ + more + kRowsPerBucket - 1) / kRowsPerBucket);
  // A quarter more while small, an eighth in whole grains later.
  std::uint32_t wanted = std::max(needed, bucket_count_ + std::max(1u, bucket_count_ / 4));
  if (wanted >= kBucketsPerGrain) {
    const std::uint32_t grains = bucket_count_ / kBucketsPerGrain;
    const std::uint32_t grains_needed = (needed + kBucketsPerGrain - 1) / kBucketsPerGrain;
    wanted = std::max(grains_needed, grains + std::max(1u, grains / 8)) * kBucketsPerGrain;
  }
  Release(pool);
  const std::size_t bytes = wanted * sizeof(IndexBucket);
  buckets_ = static_cast<IndexBucket*>(wanted < kBucketsPerGrain
                                           ? ::operator new(bytes, kLine)
                                           : pool->AllocateGrains(wanted / kBucketsPerGrain));
  std::memset(static_cast<void*>(buckets_), 0, bytes);
  bucket_count_ = wanted;
}

void KeyIndex::Release(PagePool* pool) {
  if (bucket_count_ >= kBucketsPerGrain) {
    pool->FreeGrains(buckets_, bucket_count_ / kBucketsPerGrain);
  } else if (bucket_count_ > 0) {
    ::operator delete(buckets_, kLine);
  }
  buckets_ = const_cast<IndexBucket*>(&kEmptyBucket);
  bucket_count_ = rows_ = 0;
}

}  // namespace ps::store
