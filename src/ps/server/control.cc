#include "ps/server/control.h"

#include <charconv>
#include <chrono>
#include <utility>
#include <vector>

#include "ps/server/initial_values.h"
#include "ps/server/stats.h"
#include "ps/sharding/json_fields.h"

namespace ps::server {
namespace {

using sharding::Json;

constexpr std::size_t kStreamsPerRequestMax = 1'000'000;

std::string TextOf(const std::vector<net::Frame>& frames) {
  std::string text;
  for (const net::Frame& frame : frames) {
    auto bytes = frame.payload.span();
    text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  return text;
}

void Answer(Request& request, const Status& status, const std::string& answer) {
  if (status.ok()) {
    request.ReplyControl(answer);
  } else {
    request.Fail(status, status.code() == StatusCode::kResourceExhausted);
  }
}

Result<std::vector<TensorInit>> ParseInits(const std::string& text,
                                           const sharding::ClusterDefinition& cluster) {
  PS_ASSIGN_OR_RETURN(Json json, sharding::ParseObject(text));
  PS_ASSIGN_OR_RETURN(const Json* tensors,
                      sharding::GetArray(json, "tensors", limits::kTensorsMax));
  std::vector<TensorInit> inits;
  for (const Json& tensor : *tensors) {
    TensorInit init;
    PS_ASSIGN_OR_RETURN(init.id, sharding::GetUnsigned(tensor, "id", limits::kTensorsMax));
    if (init.id >= cluster.tensors.size()) {
      return InvalidArgument("dense tensor number " + std::to_string(init.id) +
                             " does not exist; there are " +
                             std::to_string(cluster.tensors.size()));
    }
    PS_ASSIGN_OR_RETURN(std::string kind, sharding::GetString(tensor, "init"));
    PS_ASSIGN_OR_RETURN(init.initializer.kind, ParseInitKind(kind));
    PS_ASSIGN_OR_RETURN(double scale, sharding::GetNumber(tensor, "scale", 0.0, 1e30));
    init.initializer.scale = static_cast<float>(scale);
    inits.push_back(init);
  }
  return inits;
}

Result<Sweep> ParseSweep(const std::string& text) {
  PS_ASSIGN_OR_RETURN(Json json, sharding::ParseObject(text));
  PS_ASSIGN_OR_RETURN(std::string method, sharding::GetString(json, "method"));
  Sweep sweep;
  if (method == "multiply") {
    PS_ASSIGN_OR_RETURN(double factor, sharding::GetNumber(json, "factor", 0.0, 1.0));
    sweep.factor = static_cast<float>(factor);
    if (!(sweep.factor > 0.0f)) {
      return InvalidArgument("factor " + Json(factor).dump() + ": 0 < factor <= 1 is allowed");
    }
    return sweep;
  }
  if (method == "prune") {
    sweep.kind = Sweep::Kind::kPrune;
    PS_ASSIGN_OR_RETURN(double min_count, sharding::GetNumber(json, "min_count", 0.0, 1e30));
    sweep.min_count = static_cast<float>(min_count);
    return sweep;
  }
  return InvalidArgument("decay method '" + method + "': 'multiply' or 'prune' are allowed");
}

Result<std::vector<std::uint64_t>> ParseStreams(const std::string& text) {
  PS_ASSIGN_OR_RETURN(Json json, sharding::ParseObject(text));
  PS_ASSIGN_OR_RETURN(const Json* listed,
                      sharding::GetArray(json, "streams", kStreamsPerRequestMax));
  std::vector<std::uint64_t> streams;
  for (const Json& stream : *listed) {
    std::string digits = stream.is_string() ? stream.get<std::string>() : "";
    std::uint64_t id = 0;
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), id);
    if (digits.empty() || error != std::errc() || end != digits.data() + digits.size()) {
      return InvalidArgument("streams: " + sharding::Dump(stream) +
                             " is not a 64-bit number written as a string");
    }
    streams.push_back(id);
  }
  return streams;
}

}  // namespace

void Control::Serve(const RequestPtr& request) {
  std::string text = TextOf(request->frames);
  Reply reply = [request](const Status& status, const std::string& answer) {
    Answer(*request, status, answer);
  };
  if (request->stream == 0) {
    Run(text, reply);
    return;
  }
  Result<PushLedger::Outcome> outcome =
      core_->ledger.Begin(request->stream, request->sequence, reply);
  if (!outcome.ok()) {
    reply(outcome.status(), "");
    return;
  }
  if (outcome->decision == PushLedger::Decision::kWait) return;
  if (outcome->decision == PushLedger::Decision::kDone) {
    reply(Status::Ok(), outcome->answer);
    return;
  }
  Run(text, [this, request, reply](const Status& status, const std::string& answer) {
    if (status.ok()) {
      core_->ledger.Commit(request->stream, request->sequence, answer);
    } else {
      core_->ledger.Abort(request->stream, request->sequence, status);
    }
    reply(status, answer);
  });
}

void Control::Run(const std::string& text, const Reply& reply) {
  Result<Json> json = sharding::ParseObject(text);
  Result<std::string> op =
      json.ok() ? sharding::GetString(*json, "op") : Result<std::string>(json.status());
  if (!op.ok()) {
    reply(InvalidArgument("control request: " + op.status().message()), "");
    return;
  }
  Status status;
  if (*op == "describe") {
    Describe(reply);
  } else if (*op == "stats") {
    CollectStats(*core_, StatsDetail::kStats,
                 [reply](const std::string& stats) { reply(Status::Ok(), stats); });
  } else if (*op == "define") {
    status = StartDefine(text, reply);
  } else if (*op == "init_tensors") {
    status = StartInitTensors(text, reply);
  } else if (*op == "decay") {
    status = StartSweep(text, reply);
  } else if (*op == "end_streams") {
    status = EndStreams(text, reply);
  } else if (op->starts_with("checkpoint_")) {
    Result<std::string> answer = jobs_->Serve(*op, *json);
    if (answer.ok()) reply(Status::Ok(), *answer);
    status = answer.status();
  } else if (*op == "stop") {
    status = Stop(text, reply);
  } else {
    status = InvalidArgument("unknown operation '" + op->substr(0, 64) +
                             "'; a server knows describe, define, init_tensors, decay, stats, "
                             "end_streams, checkpoint_start, checkpoint_status, "
                             "checkpoint_cancel, stop");
  }
  if (!status.ok()) reply(status, "");
}

void Control::Describe(const Reply& reply) {
  DefinitionPtr definition = core_->definition();
  if (definition == nullptr) {
    reply(NotDefined(*core_), "");
    return;
  }
  const net::Endpoint& coordinator = core_->options.coordinator;
  std::string address = coordinator.host.empty() ? "" : coordinator.ToString();
  reply(Status::Ok(), "{\"server_id\":" + std::to_string(core_->options.server_id) +
                          ",\"coordinator\":" + sharding::Dump(address) +
                          ",\"definition\":" + definition->cluster.ToJson() + "}");
}

Status Control::StartDefine(const std::string& text, Reply reply) {
  PS_ASSIGN_OR_RETURN(Json json, sharding::ParseObject(text));
  PS_ASSIGN_OR_RETURN(const Json* definition, sharding::GetObject(json, "definition"));
  PS_ASSIGN_OR_RETURN(Peers peers, ParsePeers(json));
  definer_->Define(sharding::Dump(*definition), std::move(peers),
                   [reply = std::move(reply)](const Status& status) { reply(status, "{}"); });
  return Status::Ok();
}

Status Control::StartInitTensors(const std::string& text, Reply reply) {
  DefinitionPtr definition = core_->definition();
  if (definition == nullptr) return NotDefined(*core_);
  PS_ASSIGN_OR_RETURN(std::vector<TensorInit> inits, ParseInits(text, definition->cluster));
  AssignInitialValues(core_, definition, inits,
                      [reply = std::move(reply)](const Status& status) { reply(status, "{}"); });
  return Status::Ok();
}

Status Control::StartSweep(const std::string& text, Reply reply) {
  if (core_->definition() == nullptr) return NotDefined(*core_);
  PS_ASSIGN_OR_RETURN(Sweep sweep, ParseSweep(text));
  sweeps_->Start(sweep, [reply = std::move(reply)](const Status& status, std::uint64_t pruned) {
    reply(status, "{\"pruned\":" + std::to_string(pruned) + "}");
  });
  return Status::Ok();
}

Status Control::EndStreams(const std::string& text, const Reply& reply) {
  PS_ASSIGN_OR_RETURN(std::vector<std::uint64_t> streams, ParseStreams(text));
  core_->ForEachLedger([&](PushLedger& ledger) { ledger.End(streams); });
  reply(Status::Ok(), "{}");
  return Status::Ok();
}

Status Control::Stop(const std::string& text, const Reply& reply) {
  PS_ASSIGN_OR_RETURN(Json json, sharding::ParseObject(text));
  PS_ASSIGN_OR_RETURN(double grace,
                      sharding::GetNumber(json, "grace_seconds", 0.0, limits::kGraceSecondsMax));
  reply(Status::Ok(), "{}");
  core_->end("a stop request of the driver",
             std::chrono::duration_cast<Duration>(std::chrono::duration<double>(grace)));
  return Status::Ok();
}

}  // namespace ps::server
