#pragma once

// The peer of the store in process: libcuckoo, with one row of floats by key.
//
// As its authors advise: the table made at its full size, one lookup by `find_fn`, changes in place
// by `update_fn`; the same hash as ours, and its buckets in huge pages as our pages are. A table
// has no optimizer, so an Adagrad step needs a second one for the state.
#include <array>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <functional>
#include <libcuckoo/cuckoohash_map.hh>
#include <span>
#include <utility>

#include "bench/huge_pages.h"
#include "ps/base/hash.h"
#include "ps/base/types.h"

namespace ps::bench {

inline constexpr std::size_t kDim = 16;
inline constexpr float kRate = 0.01f;
inline constexpr float kEpsilon = 1e-10f;

struct MixHash {
  std::size_t operator()(Key key) const { return Mix64(key); }
};
using Floats = std::array<float, kDim>;
using CuckooTable = libcuckoo::cuckoohash_map<Key, Floats, MixHash, std::equal_to<Key>,
                                              HugePageAllocator<std::pair<const Key, Floats>>>;

inline void GatherCuckoo(const CuckooTable& table, std::span<const Key> keys, float* out) {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    table.find_fn(keys[i], [&](const Floats& values) {
      std::memcpy(out + i * kDim, values.data(), sizeof(values));
    });
  }
}

inline void AdagradStep(const float* grad, float* values, float* state) {
  for (std::size_t d = 0; d < kDim; ++d) {
    state[d] += grad[d] * grad[d];
    values[d] -= kRate * grad[d] / (std::sqrt(state[d]) + kEpsilon);
  }
}

// Value and state each looked up, the step taken, and each written back: what an optimizer does
// over tables that know nothing of it.
inline void ApplyCuckoo(CuckooTable* values, CuckooTable* states, std::span<const Key> keys,
                        const float* grads) {
  Floats value;
  Floats state;
  for (std::size_t i = 0; i < keys.size(); ++i) {
    values->find(keys[i], value);
    states->find(keys[i], state);
    AdagradStep(grads + i * kDim, value.data(), state.data());
    values->insert_or_assign(keys[i], value);
    states->insert_or_assign(keys[i], state);
  }
}

// The best two tables can do: both rows changed in place.
inline void ApplyCuckooInPlace(CuckooTable* values, CuckooTable* states, std::span<const Key> keys,
                               const float* grads) {
  for (std::size_t i = 0; i < keys.size(); ++i) {
    states->update_fn(keys[i], [&](Floats& state) {
      values->update_fn(keys[i], [&](Floats& value) {
        AdagradStep(grads + i * kDim, value.data(), state.data());
      });
    });
  }
}

}  // namespace ps::bench
