#pragma once

#include <memory>

#include "ps/net/listener.h"
#include "ps/server/core.h"
#include "ps/server/request_plan.h"

namespace ps::server {

// The plan of a pull or push of several frames, made as they arrive; for a push, whose gradients
// take their time, with the rows looked up in shards that have nothing else to do: what is left to
// do after its last frame is arithmetic. Changes nothing a client could see. The connection's
// thread only.
class PlanAhead {
 public:
  PlanAhead(Core* core, const net::ConnectionPtr& connection, wire::MessageType type);

  void Add(const net::Frame& frame);
  // The plan of all frames, `last` being the last one; null when there is none, because something
  // is wrong with the request, or because another definition has come: plan it anew then.
  std::unique_ptr<RequestPlan> Finish(const net::Frame& last, const DefinitionPtr& definition);

 private:
  void Locate(FramePlan* frame);

  Core* const core_;
  const wire::MessageType type_;
  const DefinitionPtr definition_;
  std::unique_ptr<RequestPlanner> planner_;  // null: given up
};

}  // namespace ps::server
