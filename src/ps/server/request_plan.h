#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "ps/base/status.h"
#include "ps/net/listener.h"
#include "ps/server/definition.h"
#include "ps/store/embedding_store.h"
#include "ps/wire/messages.h"

namespace ps::server {

// One section of a request, split by shard.
struct SectionPlan {
  wire::SectionView view;
  int only_shard = -1;  // the whole section is this shard's; -1: several shards', or no keys
  // Several shards': keys in order of shard, where each stands in the section, and where each
  // shard's begin (shard_count + 1 numbers).
  std::unique_ptr<Key[]> keys;
  std::unique_ptr<std::uint32_t[]> positions;
  std::vector<std::uint32_t> begin;
  // By shard, of rows that were looked up while the request was still arriving (plan_ahead.h); else
  // empty, or without rows.
  std::vector<store::LocatedRows> located;

  std::size_t chunk_number = 0;  // chunks: how many of them stand before it in the request
  std::size_t reply_offset = 0;  // pull: of its head in the reply
  float* shared_rows = nullptr;  // pull: where the rows go instead of behind that head
  bool unchanged = false;        // pull of a chunk: the client has this version

  struct Part {
    std::span<const Key> keys;
    const std::uint32_t* positions = nullptr;  // null: key i stands at i
  };
  // A shard's keys (none: an empty part). Rows only.
  Part PartOf(int shard) const;
  const store::LocatedRows* LocatedOf(int shard) const {
    return located.empty() || located[shard].rows == nullptr ? nullptr : &located[shard];
  }
  bool Concerns(int shard) const { return only_shard == shard || !PartOf(shard).keys.empty(); }
};

struct FramePlan {
  std::vector<SectionPlan> sections;
  net::Buffer reply;  // pull
  std::atomic<int> shards_left{0};
};

// A pull or push, decoded and checked, and dealt out to the shards. Points into the request's
// frames.
struct RequestPlan {
  std::deque<FramePlan> frames;
  std::vector<std::uint64_t> new_rows_max;  // by shard: keys that may make a row
  std::vector<std::size_t> work_bytes;      // by shard: of memory it touches; 0: not concerned
  std::size_t chunk_count = 0;
  std::size_t chunk_floats = 0;  // of the tensors, without states
  // Push and replicate: all chunks are of this home (sharding/copies.h).
  ServerId home = 0;
  const wire::SectionHead* replica_of = nullptr;  // replicate

  std::uint64_t new_rows_max_total() const;
};

// Checks everything that can be wrong with a request before any of it runs: sections, tables, dims,
// whether keys and chunks are this server's, chunk sizes, whether chunks have values. The message
// names section and value. A kConnection error, which clients retry: another server owns the chunks
// as far as this one knows. `reply_bytes_max`: of one part of a pull's reply. `shared`: memory that
// sections may refer to; it outlives the plan.
Result<std::unique_ptr<RequestPlan>> PlanRequest(wire::MessageType type,
                                                 std::span<const net::Frame> frames,
                                                 const ServingDefinition& definition,
                                                 int shard_count, std::size_t reply_bytes_max,
                                                 std::span<std::byte> shared);

// The same frame by frame. `definition` outlives it, as do the frames the plan.
class RequestPlanner {
 public:
  static std::unique_ptr<RequestPlanner> Create(wire::MessageType type,
                                                const ServingDefinition& definition,
                                                int shard_count, std::size_t reply_bytes_max,
                                                std::span<std::byte> shared);
  virtual ~RequestPlanner() = default;
  virtual Status AddFrame(const net::Frame& frame) = 0;
  virtual RequestPlan& plan() = 0;  // of the frames so far
  virtual Result<std::unique_ptr<RequestPlan>> Take() = 0;
};

}  // namespace ps::server
