#include "ps/client/key_batch.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <functional>
#include <numeric>

#include "ps/base/hash.h"
#include "ps/client/finite.h"

namespace ps::client {
namespace {

constexpr std::size_t kPrefetchAhead = 12;

bool IsStrictlyAscending(std::span<const Key> keys) {
  return std::adjacent_find(keys.begin(), keys.end(), std::greater_equal<>()) == keys.end();
}

}  // namespace

void KeyTable::Reset(std::size_t key_count) {
  assert(key_count <= kKeysMax);
  std::size_t size = std::bit_ceil(std::max<std::size_t>(2 * key_count, 16));
  slots_.assign(size, 0);
  mask_ = size - 1;
}

std::uint32_t KeyTable::FindOrAdd(Key key, std::uint64_t hash, std::vector<Key>* distinct) {
  constexpr std::uint64_t kTag = ~std::uint64_t{0xffffffff};
  for (std::size_t at = hash & mask_;; at = (at + 1) & mask_) {
    std::uint64_t slot = slots_[at];
    if (slot == 0) {
      distinct->push_back(key);
      slots_[at] = (hash & kTag) | distinct->size();
      return static_cast<std::uint32_t>(distinct->size() - 1);
    }
    if (((slot ^ hash) & kTag) != 0) continue;
    auto number = static_cast<std::uint32_t>(slot) - 1;
    if ((*distinct)[number] == key) return number;
  }
}

void KeyBatch::Build(const sharding::PartitionMap& map, std::uint64_t table_salt,
                     std::span<const Key> keys, KeyTable* table) {
  source_.clear();
  repeats_.clear();
  if (IsStrictlyAscending(keys)) {
    keys_ = keys;
  } else {
    FindDistinct(table_salt, keys, table);
  }
  if (map.server_count == 1) {
    begin_.assign({0, static_cast<std::uint32_t>(keys_.size())});
  } else {
    GroupByServer(map, table_salt);
  }
  SortRepeats();
}

void KeyBatch::FindDistinct(std::uint64_t table_salt, std::span<const Key> keys, KeyTable* table) {
  table->Reset(keys.size());
  distinct_.clear();
  distinct_.reserve(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    if (i + kPrefetchAhead < keys.size()) {
      table->Prefetch(HashKey(table_salt, keys[i + kPrefetchAhead]));
    }
    std::size_t known = distinct_.size();
    std::uint32_t number = table->FindOrAdd(keys[i], HashKey(table_salt, keys[i]), &distinct_);
    if (number != known) repeats_.push_back({static_cast<std::uint32_t>(i), number});
  }
  keys_ = repeats_.empty() ? keys : std::span<const Key>(distinct_);
  if (repeats_.empty()) return;

  source_.resize(distinct_.size());
  std::uint32_t input = 0;
  std::size_t next_repeat = 0;
  for (std::uint32_t& source : source_) {
    while (next_repeat < repeats_.size() && repeats_[next_repeat].input == input) {
      ++input;
      ++next_repeat;
    }
    source = input++;
  }
}

void KeyBatch::GroupByServer(const sharding::PartitionMap& map, std::uint64_t table_salt) {
  sharding::SplitByServer(map, table_salt, keys_.data(), keys_.size(), &split_);
  begin_ = split_.begin;
  const std::vector<std::uint32_t>& order = split_.positions;

  grouped_.resize(order.size());
  for (std::size_t j = 0; j < order.size(); ++j) grouped_[j] = keys_[order[j]];
  keys_ = grouped_;

  if (!repeats_.empty()) {
    scratch_.resize(order.size());
    for (std::uint32_t j = 0; j < order.size(); ++j) scratch_[order[j]] = j;
    for (Repeat& repeat : repeats_) repeat.rank = scratch_[repeat.rank];
  }
  if (source_.empty()) {
    source_ = order;
  } else {
    scratch_.resize(order.size());
    for (std::size_t j = 0; j < order.size(); ++j) scratch_[j] = source_[order[j]];
    source_.swap(scratch_);
  }
}

// Counting sort by rank: stable, so that inputs stay ascending within a rank.
void KeyBatch::SortRepeats() {
  if (repeats_.empty()) return;
  scratch_.assign(keys_.size() + 1, 0);
  for (const Repeat& repeat : repeats_) ++scratch_[repeat.rank + 1];
  std::partial_sum(scratch_.begin(), scratch_.end(), scratch_.begin());
  unsorted_.swap(repeats_);
  repeats_.resize(unsorted_.size());
  for (const Repeat& repeat : unsorted_) repeats_[scratch_[repeat.rank]++] = repeat;
}

bool KeyBatch::is_run(std::size_t first, std::size_t last) const {
  // Sources of one server ascend, so the ends tell.
  return is_identity() || source_[last] - source_[first] == last - first;
}

std::span<const KeyBatch::Repeat> KeyBatch::RepeatsOf(std::size_t first, std::size_t last) const {
  auto by_rank = [](const Repeat& repeat, std::size_t rank) { return repeat.rank < rank; };
  auto from = std::lower_bound(repeats_.begin(), repeats_.end(), first, by_rank);
  auto to = std::lower_bound(from, repeats_.end(), last, by_rank);
  return {from, to};
}

void KeyBatch::CopyRepeats(float* out, std::size_t dim) const {
  for (const Repeat& repeat : repeats_) {
    std::memcpy(out + repeat.input * dim, out + source(repeat.rank) * dim, dim * sizeof(float));
  }
}

bool KeyBatch::GatherSums(const float* rows, std::size_t dim, std::size_t first, std::size_t last,
                          float* out, bool for_others) const {
  const auto repeats = RepeatsOf(first, last);
  const bool streamed = for_others && repeats.empty();
  bool is_finite = true;
  if (first < last && is_run(first, last - 1)) {
    is_finite = CopyFinite(out, rows + source(first) * dim, (last - first) * dim, streamed);
  } else {
    for (std::size_t j = first; j < last; ++j) {
      is_finite &= CopyFinite(out + (j - first) * dim, rows + source(j) * dim, dim, streamed);
    }
  }
  // What is not finite stays so, whatever is added.
  for (const Repeat& repeat : repeats) {
    float* sum = out + (repeat.rank - first) * dim;
    const float* row = rows + repeat.input * dim;
    for (std::size_t i = 0; i < dim; ++i) sum[i] += row[i];
  }
  if (!repeats.empty()) is_finite = !FindNonFinite({out, (last - first) * dim});
  return is_finite;
}

}  // namespace ps::client
