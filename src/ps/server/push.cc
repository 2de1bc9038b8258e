#include "ps/server/push.h"

#include <utility>

#include "ps/server/replicator.h"

namespace ps::server {
namespace {

using wire::MessageType;
using wire::SectionHead;
using wire::SectionKind;

// What a copy of a chunk takes at most beside its values: three states each.
constexpr std::size_t kCopyBytesPerFloat = 4 * sizeof(float);

class Push final : public DataRequest {
 public:
  Push(RequestPtr request, DefinitionPtr definition, std::unique_ptr<RequestPlan> plan,
       PushLedger* ledger)
      : DataRequest(std::move(request), std::move(definition), std::move(plan)), ledger_(ledger) {}

 private:
  // Rows alone, and chunks without copies, take the short way.
  bool IsOrdered() const override {
    return plan().chunk_count > 0 && definition().cluster.weight_copies.copies > 1;
  }
  Status Post(const std::function<void()>& post_all) override {
    if (definition().PassesOn(plan().home)) {
      change_ = std::make_shared<Change>(plan().home, request().stream, request().sequence,
                                         plan().chunk_count);
    }
    return core().replicator->Order(definition_ptr(), change_, post_all);
  }

  void RunSection(Shard& shard, FramePlan&, SectionPlan& section, std::size_t* reserved) override {
    const SectionHead& head = section.view.head;
    if (head.kind == SectionKind::kRows) {
      SectionPlan::Part part = section.PartOf(shard.index());
      shard.table(head.id).Apply(part.keys, part.positions, section.view.floats.data(),
                                 head.rate_scale, reserved, section.LocatedOf(shard.index()));
      return;
    }
    store::ChunkId chunk{head.id, head.chunk};
    if (head.kind == SectionKind::kChunk) {
      shard.weights().Apply(chunk, section.view.floats, head.rate_scale);
    } else {
      bool keep = (head.flags & wire::kOnlyIfAbsent) != 0 && shard.weights().Has(chunk);
      if (!keep) shard.weights().Assign(chunk, section.view.floats);
      definition().presence[head.id]->Mark(head.chunk);
    }
    if (change_ != nullptr) {
      change_->Put(section.chunk_number, chunk, shard.weights().Get(chunk));
    }
  }

  void OnFrameDone(std::size_t) override {}
  void OnDone() override {
    if (change_ == nullptr) return Applied(Status::Ok());
    auto self = std::static_pointer_cast<Push>(shared_from_this());
    core().replicator->Complete(change_, [self](const Status& status) { self->Applied(status); });
  }
  // Here; `status` says whether everywhere.
  void Applied(const Status& status) {
    ledger_->Commit(request().stream, request().sequence);
    if (status.ok()) {
      request().ReplyPush();
    } else {
      request().Fail(status);
    }
  }
  void OnRefused(const Status& status) override {
    ledger_->Abort(request().stream, request().sequence, status);
    request().Fail(status, status.code() == StatusCode::kResourceExhausted);
  }

  PushLedger* const ledger_;
  ChangePtr change_;
};

// The home of the chunks of a push: this server's own, or of one that was lost, maybe before this
// server has heard of it. A push has one number at all homes: what is done for one is not done for
// another. What cannot be read, or is not this server's, is refused when it is planned.
ServerId HomeOf(const Request& request, const ServingDefinition& definition) {
  if (definition.cluster.weight_copies.copies == 1) return definition.self;
  for (const net::Frame& frame : request.frames) {
    auto sections = wire::DecodeSections(MessageType::kPush, frame.payload.span());
    if (!sections.ok()) break;
    for (const wire::SectionView& view : *sections) {
      const SectionHead& head = view.head;
      if (head.kind == SectionKind::kRows) continue;
      if (head.id >= definition.tensor_salts.size()) break;
      return definition.HomeOfChunk(head.id, head.chunk);
    }
  }
  return definition.self;
}

void Answer(Request& request, const Status& status) {
  if (status.ok()) {
    request.ReplyPush();
  } else {
    request.Fail(status, status.code() == StatusCode::kResourceExhausted);
  }
}

}  // namespace

bool ServePush(const RequestPtr& request, DefinitionPtr definition, DataRequest::Release release) {
  Core& core = *request->core;
  PushLedger& ledger = core.LedgerOf(HomeOf(*request, *definition));
  Result<PushLedger::Outcome> outcome = ledger.Begin(
      request->stream, request->sequence,
      [request](const Status& status, const std::string&) { Answer(*request, status); });
  if (!outcome.ok()) {
    Answer(*request, outcome.status());
    return true;
  }
  if (outcome->decision == PushLedger::Decision::kWait) return true;
  if (outcome->decision == PushLedger::Decision::kDone) {
    request->ReplyPush();
    return true;
  }
  Result<std::unique_ptr<RequestPlan>> plan = PlanOf(*request, definition);
  Status status = plan.status();
  if (status.ok() && (*plan)->chunk_count > 0 && definition->PassesOn((*plan)->home)) {
    status = TakeBytes(*request, (*plan)->chunk_floats * kCopyBytesPerFloat);
  }
  if (!status.ok()) {
    ledger.Abort(request->stream, request->sequence, status);
    request->Fail(status, /*refused=*/plan.ok());
    return true;
  }
  auto push =
      std::make_shared<Push>(request, std::move(definition), std::move(plan).value(), &ledger);
  return push->Start(std::move(release));
}

}  // namespace ps::server
