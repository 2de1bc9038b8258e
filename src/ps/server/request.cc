#include "ps/server/request.h"

#include <cstring>

#include "ps/wire/messages.h"

namespace ps::server {
namespace {

const char* Name(wire::MessageType type) {
  return type == wire::MessageType::kPull        ? "pull"
         : type == wire::MessageType::kPush      ? "push"
         : type == wire::MessageType::kReplicate ? "replicate"
                                                 : "control";
}

}  // namespace

void Request::Fail(const Status& status, bool refused) {
  const LogLevel level = refused                                  ? LogLevel::kWarning
                         : status.code() == StatusCode::kInternal ? LogLevel::kError
                                                                  : LogLevel::kInfo;
  core->log.Write(level, refused ? "request_refused" : "request_failed",
                  {{"request", Name(type)},
                   {"id", std::to_string(id)},
                   {"stream", std::to_string(stream)},
                   {"sequence", std::to_string(sequence)},
                   {"code", std::string(StatusCodeName(status.code()))},
                   {"why", status.message()}});
  core->errors_total.Add();
  if (refused) core->refusals_total.Add();
  Answered();
  frames.clear();
  ticket.Release();
  std::vector<std::byte> bytes = wire::EncodeError(status);
  net::Buffer payload(bytes.size());
  std::memcpy(payload.data(), bytes.data(), bytes.size());
  Reply(wire::MessageType::kError, std::move(payload));
}

void Request::ReplyControl(const std::string& json) {
  net::Buffer payload(json.size());
  if (!json.empty()) std::memcpy(payload.data(), json.data(), json.size());
  Answered();
  Reply(wire::MessageType::kControlReply, std::move(payload));
}

void Request::ReplyPush() {
  Answered();
  frames.clear();
  ticket.Release();
  Reply(wire::MessageType::kPushReply, net::Buffer());
}

void Request::Reply(wire::MessageType reply_type, net::Buffer payload) {
  wire::FrameHeader header;
  header.type = reply_type;
  header.request_id = id;
  connection->Send(header, std::move(payload), shared_from_this());
}

void Request::SendPart(std::uint64_t part, net::Buffer payload) {
  wire::FrameHeader header;
  header.type = wire::MessageType::kPullReply;
  header.request_id = id;
  header.sequence = part;
  if (part + 1 < frames.size()) header.flags = wire::kMore;
  connection->Send(header, std::move(payload), shared_from_this());
}

Result<std::unique_ptr<RequestPlan>> PlanOf(Request& request, const DefinitionPtr& definition) {
  if (auto ahead = std::move(request.plan_ahead); ahead != nullptr) {
    if (auto plan = ahead->Finish(request.frames.back(), definition); plan != nullptr) {
      return Result<std::unique_ptr<RequestPlan>>(std::move(plan));
    }
  }
  return PlanRequest(request.type, request.frames, *definition,
                     static_cast<int>(request.core->shards.size()),
                     PayloadBytesMax(request.core->options), request.connection->shared_memory());
}

Status TakeBytes(Request& request, std::size_t bytes) {
  const Core& core = *request.core;
  InFlight::Taken taken = request.ticket.TryAdd(bytes);
  if (taken == InFlight::Taken::kYes) return Status::Ok();
  if (taken == InFlight::Taken::kNever) {
    return ResourceExhausted(core.Name() + ": one request, with its reply, of more than " +
                             std::to_string(core.in_flight.oversized_bytes_max()) +
                             " bytes; send or ask for less at once");
  }
  return ConnectionError(core.Name() + " is busy: " + std::to_string(core.in_flight.requests()) +
                         " requests of " + std::to_string(core.in_flight.bytes()) +
                         " bytes are under way, at most " +
                         std::to_string(core.in_flight.requests_max()) + " of " +
                         std::to_string(core.in_flight.bytes_max()) + "; try again");
}

void Request::Answered() {
  if (type == wire::MessageType::kReplicate) return;  // another server counts it, as what it was
  core->requests_total.Add();
  LatencyByType& latency = core->shards[connection->context_index()]->latency();
  LatencyHistogram& histogram = type == wire::MessageType::kPull   ? latency.pull
                                : type == wire::MessageType::kPush ? latency.push
                                                                   : latency.control;
  histogram.Record(core->clock->Now() - arrived);
}

}  // namespace ps::server
