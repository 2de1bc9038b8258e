#include "ps/coordinator/requests.h"

#include <utility>
#include <vector>

#include "ps/base/limits.h"
#include "ps/coordinator/reply.h"
#include "ps/sharding/json_fields.h"

namespace ps::coordinator {
namespace {

using sharding::Json;

constexpr Duration kSilenceCheckInterval = std::chrono::seconds(1);
constexpr std::size_t kCreatorBytesMax = 64;

Result<std::vector<sharding::TensorDefinition>> ParseTensors(const Json& json) {
  PS_ASSIGN_OR_RETURN(const Json* listed, sharding::GetArray(json, "tensors", limits::kTensorsMax));
  std::vector<sharding::TensorDefinition> tensors;
  for (const Json& one : *listed) {
    PS_ASSIGN_OR_RETURN(auto tensor, sharding::TensorFromJson(sharding::Dump(one)));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace

void Requests::OnFrame(const net::ConnectionPtr& connection, net::Frame frame) {
  if (frame.header.type != wire::MessageType::kControl) {
    return EndWith(connection, frame.header.request_id,
                   InvalidArgument("the coordinator takes control requests only"));
  }
  std::string& text = partial_[connection->id()];
  auto bytes = frame.payload.span();
  if (text.size() + bytes.size() > limits::kControlPayloadBytesMax) {
    return EndWith(connection, frame.header.request_id,
                   ResourceExhausted("a control request of more than " +
                                     std::to_string(limits::kControlPayloadBytesMax) + " bytes"));
  }
  text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if ((frame.header.flags & wire::kMore) != 0) return;
  std::string whole = std::exchange(text, "");
  Serve(connection, frame.header.request_id, whole);
}

void Requests::EndWith(const net::ConnectionPtr& connection, std::uint64_t request_id,
                       const Status& why) {
  log_->Write(LogLevel::kWarning, "bad_frame",
              {{"peer", connection->peer()},
               {"request", std::to_string(request_id)},
               {"why", why.message()}});
  connection->SendError(request_id, why);
  connection->Close();
}

void Requests::OnRefused(const std::string& peer, const Status& why) {
  log_->Write(LogLevel::kWarning, "handshake_refused", {{"peer", peer}, {"why", why.message()}});
}

void Requests::OnClose(const net::ConnectionPtr& connection, const Status& why) {
  if (why.code() == StatusCode::kDataCorruption) {
    log_->Write(LogLevel::kWarning, "bad_frame",
                {{"peer", connection->peer()}, {"why", why.message()}});
  }
  partial_.erase(connection->id());
  barriers_.ConnectionEnded(connection->id());
  if (lines_.erase(connection->id()) != 0) {
    roster_->LineEnded(connection->id());
    DeclareLost();
  }
}

// A queue that is full is asked again by the next check for silence.
void Requests::DeclareLost() {
  if (roster_->Lost() == definitions_->current()->weight_copies.lost) return;
  (void)tasks_->Post([this] { definitions_->DeclareLost(); });
}

void Requests::Serve(const net::ConnectionPtr& connection, std::uint64_t request_id,
                     const std::string& text) {
  auto json = sharding::ParseObject(text);
  auto op = json.ok() ? sharding::GetString(*json, "op") : Result<std::string>(json.status());
  if (!op.ok()) {
    SendReply(connection, request_id, InvalidArgument("control request: " + op.status().message()));
  } else if (*op == "register") {
    SendReply(connection, request_id, Register(connection, *json));
  } else if (*op == "heartbeat") {
    SendReply(connection, request_id, Heartbeat(connection));
  } else if (*op == "describe") {
    SendReply(connection, request_id, "{" + DefinitionField() + "}");
  } else if (*op == "servers") {
    SendReply(connection, request_id, "{\"servers\":" + ServersToJson(roster_->Records()) + "}");
  } else if (*op == "create_table") {
    ServeLater(connection, request_id, [this, json = *json] { return CreateTable(json); });
  } else if (*op == "define_tensors") {
    ServeLater(connection, request_id, [this, json = *json] { return DefineTensors(json); });
  } else if (*op == "adopt") {
    ServeLater(connection, request_id, [this, json = *json] { return Adopt(json); });
  } else if (BarrierDesk::Knows(*op)) {
    barriers_.Serve(connection, request_id, *op, *json);
  } else {
    SendReply(connection, request_id,
              InvalidArgument("unknown operation '" + op->substr(0, 64) +
                              "'; the coordinator knows register, heartbeat, describe, servers, "
                              "create_table, define_tensors, adopt, create_barrier, enter_barrier, "
                              "wait_barrier, release_barrier"));
  }
}

std::string Requests::DefinitionField() const {
  return "\"definition\":" + definitions_->current()->ToJson();
}

Result<std::string> Requests::Register(const net::ConnectionPtr& connection, const Json& json) {
  PS_ASSIGN_OR_RETURN(ServerRecord record, ParseRegistration(json));
  PS_ASSIGN_OR_RETURN(bool all_registered,
                      roster_->Register(std::move(record), connection->id(), Now()));
  lines_[connection->id()] = connection;
  if (all_registered) {
    (void)tasks_->Post([this] { roster_->DefinitionArrived(definitions_->TellFirst()); });
  }
  return std::string("{}");
}

Result<std::string> Requests::Heartbeat(const net::ConnectionPtr& connection) {
  if (!roster_->Heard(connection->id(), Now())) {
    return InvalidArgument("a heartbeat from a connection that has not registered");
  }
  return std::string("{}");
}

Result<std::string> Requests::CreateTable(const Json& json) {
  PS_ASSIGN_OR_RETURN(const Json* table, sharding::GetObject(json, "table"));
  PS_ASSIGN_OR_RETURN(auto parsed, sharding::TableFromJson(sharding::Dump(*table)));
  PS_RETURN_IF_ERROR(definitions_->CreateTable(parsed));
  return "{" + DefinitionField() + "}";
}

Result<std::string> Requests::DefineTensors(const Json& json) {
  PS_ASSIGN_OR_RETURN(auto tensors, ParseTensors(json));
  std::string creator;
  if (sharding::FindField(json, "creator") != nullptr) {
    PS_ASSIGN_OR_RETURN(creator, sharding::GetString(json, "creator"));
  }
  if (creator.size() > kCreatorBytesMax) {
    return InvalidArgument("creator: " + std::to_string(creator.size()) + " bytes, at most " +
                           std::to_string(kCreatorBytesMax) + " are allowed");
  }
  PS_ASSIGN_OR_RETURN(auto created, definitions_->DefineTensors(tensors, creator));
  return "{" + DefinitionField() + ",\"created\":" + sharding::Dump(Json(created)) + "}";
}

Result<std::string> Requests::Adopt(const Json& json) {
  Definitions::Adoption adoption;
  PS_ASSIGN_OR_RETURN(const Json* tables, sharding::GetArray(json, "tables", limits::kTablesMax));
  for (const Json& one : *tables) {
    PS_ASSIGN_OR_RETURN(auto table, sharding::TableFromJson(sharding::Dump(one)));
    adoption.tables.push_back(std::move(table));
  }
  PS_ASSIGN_OR_RETURN(adoption.weights, sharding::GetBool(json, "weights"));
  PS_ASSIGN_OR_RETURN(adoption.tensors, ParseTensors(json));
  PS_ASSIGN_OR_RETURN(const Json* optimizer, sharding::GetObject(json, "weight_optimizer"));
  PS_ASSIGN_OR_RETURN(adoption.weight_optimizer,
                      sharding::OptimizerFromJson(sharding::Dump(*optimizer)));
  PS_RETURN_IF_ERROR(definitions_->Adopt(adoption));
  return "{" + DefinitionField() + "}";
}

// A client repeats what failed with kConnection until its deadline, but a lost server does not come
// back: kClosed is not repeated.
void Requests::ServeLater(const net::ConnectionPtr& connection, std::uint64_t request_id,
                          Work work) {
  bool taken = tasks_->Post([this, connection, request_id, work = std::move(work)] {
    Result<std::string> answer = work();
    if (answer.status().code() == StatusCode::kConnection && roster_->AnyLost()) {
      answer = Status(StatusCode::kClosed, answer.status().message());
    }
    SendReply(connection, request_id, answer);
  });
  if (taken) return;
  SendReply(connection, request_id,
            ConnectionError("the coordinator is busy or closing; try again"));
}

std::string Requests::StopNotice() const {
  return sharding::Dump({{"stop", true}, {"grace_seconds", stop_grace_seconds_}});
}

void Requests::Stop(double grace_seconds) {
  stop_grace_seconds_ = grace_seconds;
  for (const auto& [id, line] : lines_) SendReply(line, wire::kNoticeId, StopNotice());
  barriers_.Close(Status(StatusCode::kClosed, "the cluster is stopping"));
}

void Requests::Clear() {
  lines_.clear();
  partial_.clear();
}

void Requests::CheckSilence() {
  silence_timer_.expires_after(kSilenceCheckInterval);
  silence_timer_.async_wait([this](const asio::error_code& error) {
    if (error) return;
    for (std::uint64_t line : roster_->EndSilentLines(Now())) {
      if (auto found = lines_.find(line); found != lines_.end()) found->second->Close();
    }
    DeclareLost();
    CheckSilence();
  });
}

}  // namespace ps::coordinator
