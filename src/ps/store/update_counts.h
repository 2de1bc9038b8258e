#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "ps/base/types.h"
#include "ps/store/row_table.h"

namespace ps::store {

// How often keys were seen: the counts of a table's rows without the rows, in the same table of
// headers. Counts are float32, exact to 2^24, where adding one has no effect any more.
// Single-threaded.
class UpdateCounts {
 public:
  // Keys that were never touched count `default_count`, a number >= 0.
  explicit UpdateCounts(float default_count);

  // The new count. `by` >= 0.
  float Add(Key key, float by);
  float Get(Key key) const;
  // `count` >= 0.
  void Set(Key key, float count);
  bool Contains(Key key) const { return table_.Find(key) != nullptr; }
  // False when the key was never touched.
  bool Remove(Key key) { return table_.Remove(key); }

  // Multiplies every count by factor, 0 < factor <= 1.
  void Decay(float factor);
  // Takes out the keys with count < min_count, and gives their memory back.
  std::vector<Key> Prune(float min_count);

  std::vector<std::pair<Key, float>> All() const;
  void Clear() { table_.Clear(); }
  std::uint64_t size() const { return table_.rows(); }

 private:
  RowHeader* FindOrCreate(Key key);

  const float default_count_;
  RowTable table_;
};

}  // namespace ps::store
