#include "ps/client/key_batch.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <functional>
#include <numeric>

#include "ps/base/hash.h"
#include "ps/client/finite.h"

namespace ps::client {
namespace {

bool IsStrictlyAscending(std::span<const Key> keys) {
  return std::adjacent_find(keys.begin(), keys.end(), std::greater_equal<>()) == keys.end();
}

}  // namespace

// Hashes are made, and their slots asked for, a block ahead of their turn.
void KeyTable::FindRepeats(std::uint64_t table_salt, std::span<const Key> keys,
                           std::vector<KeyRepeat>* repeats) {
  constexpr std::size_t kHashBlock = 16;
  assert(keys.size() <= kKeysMax);
  repeats->clear();
  slots_.assign(std::bit_ceil(std::max<std::size_t>(4 * keys.size(), 16)), 0);
  std::uint32_t* const slots = slots_.data();
  const std::size_t mask = slots_.size() - 1;
  const auto tag_mask =
      static_cast<std::uint32_t>(~std::uint64_t{0} << std::bit_width(keys.size()));
  std::array<std::array<std::uint64_t, kHashBlock>, 2> hashes;
  const auto ask = [&](std::size_t block) {
    const std::size_t end = std::min((block + 1) * kHashBlock, keys.size());
    for (std::size_t i = block * kHashBlock; i < end; ++i) {
      const std::uint64_t hash = HashKey(table_salt, keys[i]);
      hashes[block % 2][i % kHashBlock] = hash;
      __builtin_prefetch(&slots[hash & mask], 1);
    }
  };
  ask(0);
  for (std::size_t block = 0; block * kHashBlock < keys.size(); ++block) {
    ask(block + 1);
    const std::size_t end = std::min((block + 1) * kHashBlock, keys.size());
    for (std::size_t i = block * kHashBlock; i < end; ++i) {
      const std::uint64_t hash = hashes[block % 2][i % kHashBlock];
      const auto tag = static_cast<std::uint32_t>(hash >> 32) & tag_mask;
      for (std::size_t at = hash & mask;; at = (at + 1) & mask) {
        const std::uint32_t slot = slots[at];
        if (slot == 0) {
          slots[at] = tag | static_cast<std::uint32_t>(i + 1);
          break;
        }
        const std::uint32_t first = (slot & ~tag_mask) - 1;
        if ((slot & tag_mask) == tag && keys[first] == keys[i]) {
          repeats->push_back({static_cast<std::uint32_t>(i), first});
          break;
        }
      }
    }
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
  table->FindRepeats(table_salt, keys, &found_);
  keys_ = keys;
  if (found_.empty()) return;

  scratch_.resize(keys.size());  // of a first occurrence: how many others come before it
  auto repeat = found_.begin();
  for (std::uint32_t input = 0; input < keys.size(); ++input) {
    if (repeat != found_.end() && repeat->input == input) {
      repeats_.push_back({input, scratch_[repeat->first]});
      ++repeat;
    } else {
      scratch_[input] = static_cast<std::uint32_t>(source_.size());
      source_.push_back(input);
    }
  }
  distinct_.resize(source_.size());
  for (std::size_t j = 0; j < source_.size(); ++j) distinct_[j] = keys[source_[j]];
  keys_ = distinct_;
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
