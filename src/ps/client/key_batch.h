#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "ps/base/types.h"
#include "ps/sharding/partition_map.h"

namespace ps::client {

// A key of an array that stands there before: key `input` equals key `first`, the first of them.
struct KeyRepeat {
  std::uint32_t input;
  std::uint32_t first;
};

// Open-addressing table of the keys of one array. Reused from call to call so that its memory is
// mapped once. Not thread-safe.
//
// A slot is 4 bytes: the place of a key's first occurrence + 1 (0 = empty) in as many bits as that
// takes, and bits of the key's hash in the others, so that a key that is not there is known from
// one cache line. At most one slot in four is taken: next to no key meets another, which a
// processor would not foresee.
class KeyTable {
 public:
  // The repeats among `keys`, at most kKeysMax, ascending in `input`.
  void FindRepeats(std::uint64_t table_salt, std::span<const Key> keys,
                   std::vector<KeyRepeat>* repeats);

  static constexpr std::size_t kKeysMax = 1u << 31;

 private:
  std::vector<std::uint32_t> slots_;
};

// The distinct keys of one table in one call, grouped by server. Built once per call; what is sent
// and where replies go is said in positions of the caller's array. Not thread-safe.
//
// When the caller's keys are distinct and there is one server, keys() is the caller's own memory
// and is_identity() holds: nothing is copied.
class KeyBatch {
 public:
  // `keys` must outlive the batch. At most KeyTable::kKeysMax keys.
  void Build(const sharding::PartitionMap& map, std::uint64_t table_salt, std::span<const Key> keys,
             KeyTable* table);

  // Distinct keys; those of server s are [begin(s), begin(s + 1)).
  std::span<const Key> keys() const { return keys_; }
  std::size_t begin(ServerId server) const { return begin_[server]; }

  // keys()[j] is the caller's key j, for all j.
  bool is_identity() const { return source_.empty(); }
  // The caller's position of the first occurrence of keys()[j].
  std::size_t source(std::size_t j) const { return is_identity() ? j : source_[j]; }
  // Whether keys()[first .. last] lie in the caller's array in a row.
  bool is_run(std::size_t first, std::size_t last) const;

  // An occurrence after the first: the caller's key `input` equals keys()[rank].
  struct Repeat {
    std::uint32_t input;
    std::uint32_t rank;
  };
  // Ascending in rank, and in input within one rank.
  std::span<const Repeat> repeats() const { return repeats_; }
  // Those with rank in [first, last).
  std::span<const Repeat> RepeatsOf(std::size_t first, std::size_t last) const;

  // out[input] = out[source(rank)] for every repeat; rows of `dim` floats.
  void CopyRepeats(float* out, std::size_t dim) const;
  // Rows [first, last) in the order of keys(): the sum of the caller's rows of each key, added up
  // in the caller's order. False when one of the sums is not finite. `for_others`: another process
  // reads them next, once StreamFence has been called.
  bool GatherSums(const float* rows, std::size_t dim, std::size_t first, std::size_t last,
                  float* out, bool for_others) const;

 private:
  void FindDistinct(std::uint64_t table_salt, std::span<const Key> keys, KeyTable* table);
  void GroupByServer(const sharding::PartitionMap& map, std::uint64_t table_salt);
  void SortRepeats();

  std::span<const Key> keys_;
  std::vector<std::uint32_t> begin_;
  std::vector<std::uint32_t> source_;
  std::vector<Repeat> repeats_;

  std::vector<KeyRepeat> found_;
  std::vector<Key> distinct_;
  std::vector<Key> grouped_;
  std::vector<std::uint32_t> scratch_;
  std::vector<Repeat> unsorted_;
  sharding::KeySplit split_;
};

}  // namespace ps::client
