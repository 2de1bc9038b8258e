#include "ps/server/request_plan.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "ps/base/limits.h"

namespace ps::server {
namespace {

using wire::MessageType;
using wire::SectionHead;
using wire::SectionKind;

// A row's line of the index and its header.
constexpr std::size_t kRowOverheadBytes = 80;

class Planner final : public RequestPlanner {
 public:
  Planner(MessageType type, const ServingDefinition& definition, int shard_count,
          std::size_t reply_bytes_max, std::span<std::byte> shared)
      : type_(type),
        definition_(definition),
        shard_count_(shard_count),
        reply_bytes_max_(reply_bytes_max),
        shared_(shared),
        plan_(std::make_unique<RequestPlan>()) {
    plan_->new_rows_max.resize(shard_count);
    plan_->work_bytes.resize(shard_count);
  }

  Status AddFrame(const net::Frame& frame) override {
    PS_ASSIGN_OR_RETURN(auto views, wire::DecodeSections(type_, frame.payload.span()));
    FramePlan& plan = plan_->frames.emplace_back();
    plan.sections.reserve(views.size());
    std::size_t reply_bytes = 0;
    for (const wire::SectionView& view : views) {
      SectionPlan& section = plan.sections.emplace_back();
      section.view = view;
      PS_RETURN_IF_ERROR(PlanSection(&section));
      if (type_ == MessageType::kPull) PS_RETURN_IF_ERROR(PlaceReply(&section, &reply_bytes));
    }
    CountShards(&plan);
    return Status::Ok();
  }

  RequestPlan& plan() override { return *plan_; }

  Result<std::unique_ptr<RequestPlan>> Take() override {
    if (type_ == MessageType::kReplicate) PS_RETURN_IF_ERROR(CheckReplica());
    return std::move(plan_);
  }

 private:
  Status PlanSection(SectionPlan* section) {
    switch (section->view.head.kind) {
      case SectionKind::kRows:
        return PlanRows(section);
      case SectionKind::kReplicaOf:
        if (plan_->replica_of != nullptr || plan_->chunk_count > 0) {
          return InvalidArgument("a copy of a change says twice whose it is, or too late");
        }
        plan_->replica_of = &section->view.head;
        return Status::Ok();
      default:
        return PlanChunk(section);
    }
  }

  Status CheckReplica() const {
    const bool is_whole = plan_->replica_of != nullptr && plan_->chunk_count > 0 &&
                          plan_->replica_of->chunk == plan_->home;
    return is_whole ? Status::Ok()
                    : InvalidArgument("a copy of a change without chunks, or of another home");
  }

  Status PlanRows(SectionPlan* section) {
    const SectionHead& head = section->view.head;
    const auto& tables = definition_.cluster.tables;
    if (head.id >= tables.size()) {
      return InvalidArgument("table number " + std::to_string(head.id) +
                             " does not exist; there are " + std::to_string(tables.size()) +
                             " tables");
    }
    if (tables[head.id].dropped) return Dropped("table", tables[head.id].name);
    if (head.dim != tables[head.id].dim) {
      return InvalidArgument("table '" + tables[head.id].name + "' has dim " +
                             std::to_string(tables[head.id].dim) + ", the request says " +
                             std::to_string(head.dim));
    }
    PS_RETURN_IF_ERROR(FindSharedRows(section));
    PS_RETURN_IF_ERROR(SplitByShard(section));
    bool creates = type_ == MessageType::kPush || (head.flags & wire::kCreateMissing) != 0;
    const std::size_t row_bytes = kRowOverheadBytes + head.dim * sizeof(float);
    for (int shard = 0; shard < shard_count_; ++shard) {
      std::size_t keys = section->PartOf(shard).keys.size();
      plan_->work_bytes[shard] += keys * row_bytes;
      if (creates) plan_->new_rows_max[shard] += keys;
    }
    return Status::Ok();
  }

  Status FindSharedRows(SectionPlan* section) {
    const SectionHead& head = section->view.head;
    if ((head.flags & wire::kSharedRows) == 0) return Status::Ok();
    const std::size_t floats = std::size_t{head.count} * head.dim;
    const std::size_t begin = std::min<std::size_t>(head.version, shared_.size());
    if ((shared_.size() - begin) / sizeof(float) < floats) {
      return InvalidArgument("rows at byte " + std::to_string(head.version) + " of " +
                             std::to_string(shared_.size()) + " bytes of shared memory");
    }
    auto* rows = reinterpret_cast<float*>(shared_.data() + begin);
    if (type_ == MessageType::kPull) {
      section->shared_rows = rows;
    } else {
      section->view.floats = {rows, floats};
    }
    return Status::Ok();
  }

  // Counting sort by shard; stable. Left out when one shard has all.
  Status SplitByShard(SectionPlan* section) {
    std::span<const Key> keys = section->view.keys;
    if (keys.empty()) return Status::Ok();
    shard_of_.resize(keys.size());
    std::vector<std::uint32_t> begin(shard_count_ + 1, 0);
    const TableId table = section->view.head.id;
    const std::uint64_t salt = definition_.table_salts[table];
    const int bits = definition_.cluster.map.partition_bits;
    const int* shard_of_partition = definition_.shard_of_partition.data();
    for (std::size_t i = 0; i < keys.size(); ++i) {
      int shard = shard_of_partition[PartitionOf(HashKey(salt, keys[i]), bits)];
      if (shard < 0) return NotHere(table, keys[i]);
      shard_of_[i] = static_cast<std::uint16_t>(shard);
      ++begin[shard + 1];
    }
    if (begin[shard_of_[0] + 1] == keys.size()) {
      section->only_shard = shard_of_[0];
      return Status::Ok();
    }
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    section->keys = std::make_unique_for_overwrite<Key[]>(keys.size());
    section->positions = std::make_unique_for_overwrite<std::uint32_t[]>(keys.size());
    std::vector<std::uint32_t> next = begin;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      std::uint32_t at = next[shard_of_[i]]++;
      section->keys[at] = keys[i];
      section->positions[at] = static_cast<std::uint32_t>(i);
    }
    section->begin = std::move(begin);
    return Status::Ok();
  }

  static Status Dropped(const std::string& what, const std::string& name) {
    return NotFound(what + " '" + name +
                    "' went when a checkpoint was loaded: make the client anew to see what is "
                    "there now");
  }

  Status NotHere(TableId table, Key key) const {
    const sharding::ClusterDefinition& cluster = definition_.cluster;
    return InvalidArgument(
        "key " + std::to_string(key) + " of table '" + cluster.tables[table].name +
        "' belongs to server " +
        std::to_string(cluster.map.ServerOf(definition_.table_salts[table], key)) +
        ", not to this one");
  }

  Status PlanChunk(SectionPlan* section) {
    const SectionHead& head = section->view.head;
    const auto& tensors = definition_.cluster.tensors;
    if (head.id >= tensors.size()) {
      return InvalidArgument("dense tensor number " + std::to_string(head.id) +
                             " does not exist; there are " + std::to_string(tensors.size()));
    }
    const sharding::TensorDefinition& tensor = tensors[head.id];
    if (tensor.dropped) return Dropped("dense tensor", tensor.name);
    std::string name =
        "chunk " + std::to_string(head.chunk) + " of dense tensor '" + tensor.name + "'";
    if (head.chunk >= tensor.chunks()) {
      return InvalidArgument(name + " does not exist; it has " + std::to_string(tensor.chunks()));
    }
    section->only_shard = definition_.ShardOfChunk(head.id, head.chunk);
    if (section->only_shard < 0) return InvalidArgument(name + " belongs to another server");
    const std::size_t floats = section->view.floats.size();
    bool sized = type_ == MessageType::kPull || floats == tensor.chunk_floats(head.chunk) ||
                 (type_ == MessageType::kReplicate && floats > tensor.chunk_floats(head.chunk));
    if (!sized) {
      return InvalidArgument(name + " has " + std::to_string(tensor.chunk_floats(head.chunk)) +
                             " values, the request brings " +
                             std::to_string(section->view.floats.size()));
    }
    const bool must_be_there =
        head.kind == SectionKind::kChunk && (head.flags & wire::kIfPresent) == 0;
    if (must_be_there && !definition_.presence[head.id]->Has(head.chunk)) {
      return NotFound(name + " has no values yet; set or initialise the weights first");
    }
    plan_->work_bytes[section->only_shard] +=
        wire::kSectionHeadBytes + tensor.chunk_floats(head.chunk) * sizeof(float);
    if (type_ != MessageType::kPull) PS_RETURN_IF_ERROR(CheckHome(name, head));
    section->chunk_number = plan_->chunk_count++;
    plan_->chunk_floats += tensor.chunk_floats(head.chunk);
    return Status::Ok();
  }

  Status CheckHome(const std::string& name, const SectionHead& head) {
    const ServerId home = definition_.HomeOfChunk(head.id, head.chunk);
    if (type_ == MessageType::kPush && !definition_.Owns(home)) {
      return ConnectionError(name + " is owned by another server as far as this one knows; try " +
                             "again");
    }
    if (plan_->chunk_count > 0 && home != plan_->home) {
      return InvalidArgument(name + " is of home " + std::to_string(home) +
                             ", the chunks before it are of home " + std::to_string(plan_->home));
    }
    plan_->home = home;
    return Status::Ok();
  }

  Status PlaceReply(SectionPlan* section, std::size_t* reply_bytes) {
    SectionHead head = section->view.head;
    if (head.kind == SectionKind::kChunk) {
      head.count = definition_.cluster.tensors[head.id].chunk_floats(head.chunk);
    }
    section->reply_offset = *reply_bytes;
    *reply_bytes += wire::kSectionHeadBytes + wire::SectionBodyBytes(MessageType::kPullReply, head);
    if (*reply_bytes <= reply_bytes_max_) return Status::Ok();
    return InvalidArgument("the reply to frame " + std::to_string(plan_->frames.size() - 1) +
                           " would be longer than " + std::to_string(reply_bytes_max_) +
                           " bytes; ask for fewer keys in one frame");
  }

  void CountShards(FramePlan* plan) {
    int shards = 0;
    for (int shard = 0; shard < shard_count_; ++shard) {
      bool concerned = std::any_of(plan->sections.begin(), plan->sections.end(),
                                   [&](const SectionPlan& s) { return s.Concerns(shard); });
      shards += concerned;
    }
    plan->shards_left.store(shards, std::memory_order_relaxed);
  }

  const MessageType type_;
  const ServingDefinition& definition_;
  const int shard_count_;
  const std::size_t reply_bytes_max_;
  const std::span<std::byte> shared_;
  std::unique_ptr<RequestPlan> plan_;
  std::vector<std::uint16_t> shard_of_;
};

}  // namespace

SectionPlan::Part SectionPlan::PartOf(int shard) const {
  if (only_shard == shard) return {view.keys, nullptr};
  if (only_shard >= 0 || begin.empty()) return {};
  std::size_t first = begin[shard];
  return {{keys.get() + first, begin[shard + 1] - first}, positions.get() + first};
}

std::uint64_t RequestPlan::new_rows_max_total() const {
  return std::accumulate(new_rows_max.begin(), new_rows_max.end(), std::uint64_t{0});
}

std::unique_ptr<RequestPlanner> RequestPlanner::Create(MessageType type,
                                                       const ServingDefinition& definition,
                                                       int shard_count, std::size_t reply_bytes_max,
                                                       std::span<std::byte> shared) {
  return std::make_unique<Planner>(type, definition, shard_count, reply_bytes_max, shared);
}

Result<std::unique_ptr<RequestPlan>> PlanRequest(MessageType type,
                                                 std::span<const net::Frame> frames,
                                                 const ServingDefinition& definition,
                                                 int shard_count, std::size_t reply_bytes_max,
                                                 std::span<std::byte> shared) {
  Planner planner(type, definition, shard_count, reply_bytes_max, shared);
  for (const net::Frame& frame : frames) PS_RETURN_IF_ERROR(planner.AddFrame(frame));
  return planner.Take();
}

}  // namespace ps::server
