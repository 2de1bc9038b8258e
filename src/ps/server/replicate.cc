#include "ps/server/replicate.h"

#include <string>
#include <utility>

#include "ps/server/replicator.h"

namespace ps::server {
namespace {

using wire::MessageType;

class Replicate final : public DataRequest {
 public:
  // `ledger`: where the change's number is in progress; null: it has none.
  Replicate(RequestPtr request, DefinitionPtr definition, std::unique_ptr<RequestPlan> plan,
            PushLedger* ledger)
      : DataRequest(std::move(request), std::move(definition), std::move(plan)), ledger_(ledger) {}

 private:
  bool IsOrdered() const override { return true; }
  Status Post(const std::function<void()>& post_all) override {
    if (definition().PassesOn(plan().home)) {
      change_ = std::make_shared<Change>(plan().home, ledger_ == nullptr ? 0 : request().stream,
                                         request().sequence, plan().chunk_count);
    }
    return core().replicator->Order(definition_ptr(), change_, post_all);
  }

  void RunSection(Shard& shard, FramePlan&, SectionPlan& section, std::size_t*) override {
    const wire::SectionHead& head = section.view.head;
    const store::ChunkId id{head.id, head.chunk};
    store::WeightStore& weights = shard.weights();
    const std::size_t floats = definition().cluster.tensors[head.id].chunk_floats(head.chunk);
    const std::span<const float> values = section.view.floats.first(floats);
    const std::span<const float> state = section.view.floats.subspan(floats);
    // What is older than what is here comes again, over a new connection. A state of another size
    // was on its way while another optimizer was loaded.
    const bool is_news = !weights.Has(id) || weights.Get(id).version < head.version;
    if (is_news && state.size() == weights.optimizer().StateFloats(floats)) {
      weights.Restore(id, values, state, head.version);
      definition().presence[head.id]->Mark(head.chunk);
    }
    if (change_ != nullptr && weights.Has(id)) {
      change_->Put(section.chunk_number, id, weights.Get(id));
    }
  }

  void OnFrameDone(std::size_t) override {}
  void OnDone() override {
    if (change_ == nullptr) return Answer(Status::Ok());
    auto self = std::static_pointer_cast<Replicate>(shared_from_this());
    core().replicator->Complete(change_, [self](const Status& status) { self->Answer(status); });
  }
  void OnRefused(const Status& status) override {
    if (ledger_ != nullptr) ledger_->Abort(request().stream, request().sequence, status);
    request().Fail(status);
  }
  void Answer(const Status& status) {
    if (ledger_ != nullptr) ledger_->Commit(request().stream, request().sequence);
    if (status.ok()) {
      request().ReplyPush();
    } else {
      request().Fail(status);
    }
  }

  PushLedger* const ledger_;
  ChangePtr change_;
};

Status CheckSender(const Core& core, const ServingDefinition& definition,
                   const wire::SectionHead& of) {
  if (of.version > definition.cluster.version) {
    return ConnectionError(core.Name() + " has not heard of the newest tables and servers yet; " +
                           "try again");
  }
  if (definition.cluster.weight_copies.IsLost(of.id)) {
    return Status(StatusCode::kClosed, "server " + std::to_string(of.id) +
                                           " was declared lost: others own what it held");
  }
  return Status::Ok();
}

}  // namespace

void ServeReplicate(const RequestPtr& request, DefinitionPtr definition) {
  Core& core = *request->core;
  Result<std::unique_ptr<RequestPlan>> plan =
      PlanRequest(MessageType::kReplicate, request->frames, *definition,
                  static_cast<int>(core.shards.size()), /*reply_bytes_max=*/0, /*shared=*/{});
  Status status = plan.status();
  if (plan.ok()) status = CheckSender(core, *definition, *(*plan)->replica_of);
  if (!status.ok()) {
    request->Fail(status);
    return;
  }
  PushLedger* ledger = nullptr;
  if (request->stream != 0) {
    ledger = &core.LedgerOf((*plan)->home);
    Result<PushLedger::Outcome> outcome = ledger->Begin(
        request->stream, request->sequence, [request](const Status& ended, const std::string&) {
          if (ended.ok()) {
            request->ReplyPush();
          } else {
            request->Fail(ended);
          }
        });
    if (outcome.ok() && outcome->decision == PushLedger::Decision::kWait) return;
    if (outcome.ok() && outcome->decision == PushLedger::Decision::kDone) {
      request->ReplyPush();
      return;
    }
    // A number that the ledger does not take (its stream has ended: nobody retries it) does not
    // keep the chunks from being as they are at the owner.
    if (!outcome.ok()) ledger = nullptr;
  }
  auto replicate =
      std::make_shared<Replicate>(request, std::move(definition), std::move(plan).value(), ledger);
  replicate->Start(nullptr);
}

}  // namespace ps::server
