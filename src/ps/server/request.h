#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/net/listener.h"
#include "ps/server/core.h"
#include "ps/server/in_flight.h"
#include "ps/server/plan_ahead.h"

namespace ps::server {

// One whole request as it came over a connection, and the way back. Held by shared_ptr by whoever
// works on it, and by its reply until the last byte of that is written, so that its ticket covers
// replies that wait for a slow reader. Answered exactly once (Fail, ReplyControl, ReplyPush, or all
// parts of a pull, the last of them after Answered), from any thread.
struct Request : std::enable_shared_from_this<Request> {
  Request(Core* the_core, net::ConnectionPtr the_connection, const wire::FrameHeader& first)
      : core(the_core),
        connection(std::move(the_connection)),
        type(first.type),
        id(first.request_id),
        stream(first.stream),
        sequence(first.sequence),
        ticket(&the_core->in_flight) {}

  Core* const core;
  const net::ConnectionPtr connection;
  const wire::MessageType type;
  const std::uint64_t id;
  const std::uint64_t stream;
  const std::uint64_t sequence;
  std::vector<net::Frame> frames;
  std::unique_ptr<PlanAhead> plan_ahead;  // of a pull or push of several frames
  SteadyTime arrived;                     // with its last frame
  Ticket ticket;

  void Fail(const Status& status, bool refused = false);
  void ReplyControl(const std::string& json);
  void ReplyPush();
  void SendPart(std::uint64_t part, net::Buffer payload);
  void Answered();

 private:
  void Reply(wire::MessageType reply_type, net::Buffer payload);
};
using RequestPtr = std::shared_ptr<Request>;

// The plan of a whole pull or push, made while it arrived as far as that could be; as PlanRequest.
Result<std::unique_ptr<RequestPlan>> PlanOf(Request& request, const DefinitionPtr& definition);

// Takes memory for a request from the server's InFlight. ResourceExhausted when a request may never
// have so much, a kConnection error ("busy") when others have it now: clients retry that with
// backoff inside their deadline.
Status TakeBytes(Request& request, std::size_t bytes);

}  // namespace ps::server
