#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/random.h"
#include "ps/base/status.h"
#include "ps/base/types.h"
#include "ps/optimizers/optimizer.h"
#include "ps/store/row_budget.h"
#include "ps/store/row_layout.h"
#include "ps/store/row_table.h"

namespace ps::store {

class PagePool;

// What a table is; fixed when the table is defined, the same on every server.
struct TableSpec {
  std::string name;
  std::uint32_t dim = 64;  // 1 .. limits::kEmbeddingDimMax
  optimizers::OptimizerConfig optimizer;
  Initializer initializer;
  std::uint64_t seed = 0;
};

struct TableStats {
  std::uint64_t rows = 0;
  std::uint64_t created_total = 0;
  std::uint64_t pruned_total = 0;
  std::uint64_t values_bytes = 0;  // headers and values of the rows
  std::uint64_t state_bytes = 0;   // optimizer state of the rows
  std::uint64_t index_bytes = 0;   // index, and slab space that holds no row
};

// Rows that were looked up before their gradients were there.
struct LocatedRows {
  std::unique_ptr<RowHeader*[]> rows;  // of key i, or null: it had none
  RowEpoch epoch;  // as long as the table's is this one, they are where they were
};

// The rows of one table in the partitions that one shard thread owns.
//
// Each partition has its own index segment and its own chain of slabs, made with its first row.
// Single-threaded: every call comes from the shard's thread (Stats too). Batches are arrays of
// keys; `positions`, when not null, says where key i's row lies in the caller's arrays
// (row i at out + positions[i]*dim); null means i. Keys of one Apply are distinct (the client sums
// repeated ones); keys of a Gather may repeat. Keys must belong to partitions this shard holds.
class EmbeddingStore {
 public:
  // `budget` counts the rows of all tables of the server and outlives the store; `clock` gives the
  // day. `partition_bits` = log2 of the cluster's partition count. Tables of one shard share `pool`
  // (null: a pool of its own, which costs a table with few rows up to 2 MiB).
  // InvalidArgument: a name, dim, scale, optimizer or partition_bits outside its bounds.
  static Result<std::unique_ptr<EmbeddingStore>> Create(TableSpec spec, int partition_bits,
                                                        RowBudget* budget, const Clock* clock,
                                                        std::shared_ptr<PagePool> pool = nullptr);
  virtual ~EmbeddingStore() = default;

  virtual const TableSpec& spec() const = 0;
  virtual const optimizers::Optimizer& optimizer() const = 0;

  // Distinct keys of the batch that have no row yet. Changes nothing.
  virtual std::size_t CountMissing(std::span<const Key> keys) const = 0;

  // Writes each key's dim floats to its position. A missing key gets a new row (count 1, values
  // from seed, table and key alone) when `create`, else zeros. New rows are drawn from `reserved`,
  // the number of rows the caller has reserved from the budget; what is not needed stays in it.
  // Requires *reserved >= CountMissing(keys) when `create`.
  // Streamed: written around the caches where that can be, for another process to read.
  enum class Stores { kCached, kStreamed };
  virtual void Gather(std::span<const Key> keys, const std::uint32_t* positions, bool create,
                      std::size_t* reserved, float* out, Stores stores) = 0;
  void Gather(std::span<const Key> keys, const std::uint32_t* positions, bool create,
              std::size_t* reserved, float* out) {
    Gather(keys, positions, create, reserved, out, Stores::kCached);
  }

  // Applies gradient i to key i's row, made first when missing (with count 1, as by Gather); then
  // count + 1 and last_day = today, also for a row just made (whose count is 2 after this).
  // `located`: what Locate said of these keys, or null. Of no effect but on speed.
  virtual void Apply(std::span<const Key> keys, const std::uint32_t* positions, const float* grads,
                     float rate_scale, std::size_t* reserved, const LocatedRows* located) = 0;
  void Apply(std::span<const Key> keys, const std::uint32_t* positions, const float* grads,
             float rate_scale, std::size_t* reserved) {
    Apply(keys, positions, grads, rate_scale, reserved, nullptr);
  }
  // Looks the keys up for an Apply to come. Changes nothing.
  virtual LocatedRows Locate(std::span<const Key> keys) const = 0;

  // Overwrites or makes a row: values, count, last_day and state (empty: fresh state).
  virtual void Set(Key key, std::span<const float> values, float count, UnixDay last_day,
                   std::span<const float> state, std::size_t* reserved) = 0;
  // Room in a partition's index for as many more rows at once, before many calls of Set that would
  // make it step by step.
  virtual void MakeRoom(PartitionId partition, std::size_t rows) = 0;
  // Values and header of a row without making it; false when there is none. Pointers live until the
  // next call.
  virtual bool Find(Key key, const RowHeader** header, const float** values) const = 0;
  virtual bool Remove(Key key) = 0;

  // Sweeps run in bounded steps between requests: each call handles at most `rows_max` rows (0 =
  // all) and goes on where the last one stopped; true when the sweep has come round. A row made or
  // pushed while a sweep is under way is swept at most once. One sweep at a time.
  virtual bool DecayStep(float factor, std::size_t rows_max) = 0;
  // Rows with count < min_count go; *pruned grows by their number. Memory is reused by later rows.
  virtual bool PruneStep(float min_count, std::size_t rows_max, std::uint64_t* pruned) = 0;

  virtual void Clear() = 0;
  virtual TableStats Stats() const = 0;

  // Moves the count of this store's rows to another budget, whatever its limit: for a store that
  // was built beside those that serve and now takes the place of one.
  virtual void ChargeTo(RowBudget* budget) = 0;

  virtual std::size_t RowsIn(PartitionId partition) const = 0;
  // Every row of a partition, in slab order: fn(header, values, state). For snapshots and tests.
  virtual void VisitPartition(
      PartitionId partition,
      const std::function<void(const RowHeader&, const float*, const float*)>& fn) const = 0;
};

}  // namespace ps::store
