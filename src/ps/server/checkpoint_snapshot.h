#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ps/arrow/export.h"
#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/server/core.h"

namespace ps::server {

// What a server holds, as streams of record batches, while it goes on serving.
//
// Rows are copied on their shard's thread, a partition at a time, in steps of about kStep between
// two requests: each (table, partition) is seen at one moment, several at several moments. A shard
// that has requests to serve spends at most one part in kBusyShare of its time on copying.
// A stream holds a few batches at most, whatever the table's size; it ends with kClosed when the
// server ends. Calls are thread-safe; the server outlives the streams.
class Snapshots {
 public:
  static constexpr Duration kStep = std::chrono::milliseconds(1);
  static constexpr int kBusyShare = 10;

  explicit Snapshots(Core* core) : core_(core) {}

  // Rows of the partitions [first, last) of a table that this server holds, by partition
  // (arrow/rows.h). NotFound names the tables that exist.
  Result<std::unique_ptr<arrow::BatchSource>> Rows(const std::string& table, PartitionId first,
                                                   PartitionId last, bool with_states);

  // Chunks of dense tensors that this server owns (copies of others' are left to them) and that
  // have values:
  //   name string · shape list<int64> · offset int64 (of the chunk's first float in the tensor) ·
  //   values list<float32> · version uint64 · each state part, under its name, list<float32>
  Result<std::unique_ptr<arrow::BatchSource>> Weights(bool with_states);

  // The push ledger of the moment of the call (push_ledger.h):
  //   stream uint64 · highest uint64 · ended uint8 · done FixedSizeBinary, bit sequence % window
  // Taken after the rows it goes with: what came while they were copied counts as done.
  Result<std::unique_ptr<arrow::BatchSource>> Ledger();

  // When a shard may copy again. The shard's thread only.
  struct Pace {
    SteadyTime not_before;
    std::uint64_t requests_seen = 0;
  };
  Pace& pace(const Shard& shard) { return paces_[shard.index()]; }

 private:
  Core* const core_;
  std::vector<Pace> paces_{256};  // by shard
};

}  // namespace ps::server
