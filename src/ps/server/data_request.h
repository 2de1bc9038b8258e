#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "ps/server/request.h"
#include "ps/server/request_plan.h"

namespace ps::server {

// A pull or push on its way through the shards: admission against the row limit (row_gate.h), then
// one task on each shard it concerns. The connection's thread does the part of its own shard, and
// the small parts of others, unless those shards are at work.
class DataRequest : public std::enable_shared_from_this<DataRequest> {
 public:
  // Called by the connection's thread when the next request of the connection may go on.
  using Release = std::function<void()>;

  DataRequest(RequestPtr request, DefinitionPtr definition, std::unique_ptr<RequestPlan> plan)
      : request_(std::move(request)), definition_(std::move(definition)), plan_(std::move(plan)) {}
  virtual ~DataRequest() = default;

  // On the connection's thread. True: handed to every shard (or refused). False: `release` is
  // called later, when it is.
  bool Start(Release release);

 protected:
  virtual void RunSection(Shard& shard, FramePlan& frame, SectionPlan& section,
                          std::size_t* reserved) = 0;
  // The last shard's thread is through with frame `number`, resp. with all.
  virtual void OnFrameDone(std::size_t number) = 0;
  virtual void OnDone() = 0;
  // Whether `Post` is asked to put the request in an order with others.
  virtual bool IsOrdered() const { return false; }
  // Runs `post_all`, which posts the request to all shards it concerns; not ok, and nothing is
  // posted: the request is refused with that.
  virtual Status Post(const std::function<void()>& post_all) {
    post_all();
    return Status::Ok();
  }
  // Nothing ran.
  virtual void OnRefused(const Status& status) = 0;

  Core& core() { return *request_->core; }
  Request& request() { return *request_; }
  const ServingDefinition& definition() const { return *definition_; }
  const DefinitionPtr& definition_ptr() const { return definition_; }
  RequestPlan& plan() { return *plan_; }
  const RequestPlan& plan() const { return *plan_; }

 private:
  enum class Hold { kNone, kReserved, kExact, kExactReserved };

  void Run();
  void RunInOrder();
  void PostTo(Shard& shard);
  void RunShard(Shard& shard);
  void Finish();
  void GiveBackRows(std::size_t unused);
  std::size_t RowsReserved() const;
  void CountOnShards();
  std::uint64_t CountOn(Shard& shard);
  void Counted();
  void Decided(RowGate::Decision decision);
  Status Full() const;
  void PostToConnection(std::function<void()> function);

  const RequestPtr request_;
  const DefinitionPtr definition_;
  const std::unique_ptr<RequestPlan> plan_;
  Hold hold_ = Hold::kNone;
  Release release_;
  std::uint64_t generation_ = 0;              // of the gate, when the rows were counted
  std::vector<std::uint64_t> rows_of_shard_;  // each shard may make so many rows
  std::vector<std::map<TableId, std::uint64_t>> missing_;  // by shard
  std::atomic<int> shards_left_{0};
  std::atomic<std::uint64_t> unused_{0};
};

}  // namespace ps::server
