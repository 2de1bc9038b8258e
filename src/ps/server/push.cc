#include "ps/server/push.h"

#include <utility>

namespace ps::server {
namespace {

using wire::MessageType;
using wire::SectionHead;
using wire::SectionKind;

class Push final : public DataRequest {
 public:
  using DataRequest::DataRequest;

 private:
  void RunSection(Shard& shard, FramePlan&, SectionPlan& section, std::size_t* reserved) override {
    const SectionHead& head = section.view.head;
    if (head.kind == SectionKind::kRows) {
      SectionPlan::Part part = section.PartOf(shard.index());
      shard.table(head.id).Apply(part.keys, part.positions, section.view.floats.data(),
                                 head.rate_scale, reserved);
      return;
    }
    store::ChunkId chunk{head.id, head.chunk};
    if (head.kind == SectionKind::kChunk) {
      shard.weights().Apply(chunk, section.view.floats, head.rate_scale);
      return;
    }
    bool keep = (head.flags & wire::kOnlyIfAbsent) != 0 && shard.weights().Has(chunk);
    if (!keep) shard.weights().Assign(chunk, section.view.floats);
    definition().presence[head.id]->Mark(head.chunk);
  }

  void OnFrameDone(std::size_t) override {}
  void OnDone() override {
    core().ledger.Commit(request().stream, request().sequence);
    request().ReplyPush();
  }
  void OnRefused(const Status& status) override {
    core().ledger.Abort(request().stream, request().sequence, status);
    request().Fail(status, /*refused=*/true);
  }
};

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
  Result<PushLedger::Outcome> outcome = core.ledger.Begin(
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
  Result<std::unique_ptr<RequestPlan>> plan = PlanRequest(
      MessageType::kPush, request->frames, *definition, static_cast<int>(core.shards.size()),
      /*reply_bytes_max=*/0, request->connection->shared_memory());
  if (!plan.ok()) {
    core.ledger.Abort(request->stream, request->sequence, plan.status());
    request->Fail(plan.status());
    return true;
  }
  auto push = std::make_shared<Push>(request, std::move(definition), std::move(plan).value());
  return push->Start(std::move(release));
}

}  // namespace ps::server
