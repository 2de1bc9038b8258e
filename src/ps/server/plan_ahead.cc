#include "ps/server/plan_ahead.h"

#include <utility>

namespace ps::server {

PlanAhead::PlanAhead(Core* core, const net::ConnectionPtr& connection, wire::MessageType type)
    : core_(core), type_(type), definition_(core->definition()) {
  if (definition_ == nullptr) return;
  planner_ = RequestPlanner::Create(type, *definition_, static_cast<int>(core->shards.size()),
                                    PayloadBytesMax(core->options), connection->shared_memory());
}

void PlanAhead::Add(const net::Frame& frame) {
  if (planner_ == nullptr) return;
  if (!planner_->AddFrame(frame).ok()) {
    planner_.reset();
  } else if (type_ == wire::MessageType::kPush) {
    Locate(&planner_->plan().frames.back());
  }
}

void PlanAhead::Locate(FramePlan* frame) {
  for (SectionPlan& section : frame->sections) {
    if (section.view.head.kind != wire::SectionKind::kRows) continue;
    section.located.resize(core_->shards.size());
    for (auto& shard : core_->shards) {
      const SectionPlan::Part part = section.PartOf(shard->index());
      if (part.keys.empty()) continue;
      shard->TryRun([&] {
        section.located[shard->index()] = shard->table(section.view.head.id).Locate(part.keys);
      });
    }
  }
}

std::unique_ptr<RequestPlan> PlanAhead::Finish(const net::Frame& last,
                                               const DefinitionPtr& definition) {
  if (planner_ == nullptr || definition != definition_) return nullptr;
  if (!planner_->AddFrame(last).ok()) return nullptr;
  Result<std::unique_ptr<RequestPlan>> plan = planner_->Take();
  return plan.ok() ? std::move(plan).value() : nullptr;
}

}  // namespace ps::server
