#include "ps/store/update_counts.h"

#include "ps/store/sweeper.h"

namespace ps::store {
namespace {

constexpr int kPartitionBits = 4;
constexpr std::uint64_t kSalt = 0;

template <typename Fn>
void ForEach(const RowTable& table, Fn&& fn) {
  for (std::uint32_t segment = 1; segment <= table.segments(); ++segment) {
    table.chain(segment).ForEachLive(table.arena(),
                                     [&](RowNumber, RowHeader* header) { fn(header); });
  }
}

}  // namespace

UpdateCounts::UpdateCounts(float default_count)
    : default_count_(default_count),
      table_(std::make_shared<PagePool>(), kSalt, kPartitionBits, RowStrideBytes(0, 0)) {}

RowHeader* UpdateCounts::FindOrCreate(Key key) {
  const std::uint64_t hash = table_.Hash(key);
  RowHeader* header = table_.Find(key, hash);
  if (header != nullptr) return header;
  header = table_.Create(key, hash);
  header->count = default_count_;
  header->last_day = 0;
  return header;
}

float UpdateCounts::Add(Key key, float by) { return FindOrCreate(key)->count += by; }

float UpdateCounts::Get(Key key) const {
  const RowHeader* header = table_.Find(key);
  return header == nullptr ? default_count_ : header->count;
}

void UpdateCounts::Set(Key key, float count) { FindOrCreate(key)->count = count; }

void UpdateCounts::Decay(float factor) {
  ForEach(table_, [factor](RowHeader* header) { header->count *= factor; });
}

std::vector<Key> UpdateCounts::Prune(float min_count) {
  std::vector<Key> keys;
  ForEach(table_, [&](const RowHeader* header) {
    if (header->count < min_count) keys.push_back(header->key);
  });
  std::uint64_t pruned = 0;
  Sweeper().Prune(&table_, min_count, 0, &pruned);
  return keys;
}

std::vector<std::pair<Key, float>> UpdateCounts::All() const {
  std::vector<std::pair<Key, float>> all;
  all.reserve(size());
  ForEach(table_, [&](const RowHeader* header) { all.emplace_back(header->key, header->count); });
  return all;
}

}  // namespace ps::store
