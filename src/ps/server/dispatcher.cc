#include "ps/server/dispatcher.h"

#include <utility>

#include "ps/server/pull.h"
#include "ps/server/push.h"
#include "ps/server/replicate.h"

namespace ps::server {

Dispatcher::StatePtr Dispatcher::StateOf(const net::ConnectionPtr& connection) {
  StatePtr& state = connections_[connection->context_index()][connection->id()];
  if (state == nullptr) state = std::make_shared<ConnectionState>(core_);
  return state;
}

void Dispatcher::OnFrame(const net::ConnectionPtr& connection, net::Frame frame) {
  StatePtr state = StateOf(connection);
  if (state->broken) return;
  std::uint64_t request_id = frame.header.request_id;
  Result<RequestPtr> request = state->assembler.Add(connection, std::move(frame));
  if (!request.ok()) {
    core_->errors_total.Add();
    state->broken = true;
    LogBadFrame(connection, request.status());
    connection->SendError(request_id, request.status());
    connection->Close();
    return;
  }
  if (*request != nullptr) Enqueue(state, std::move(request).value());
}

void Dispatcher::OnClose(const net::ConnectionPtr& connection, const Status& why) {
  if (why.code() == StatusCode::kDataCorruption) LogBadFrame(connection, why);
  connections_[connection->context_index()].erase(connection->id());
}

void Dispatcher::OnRefused(const std::string& peer, const Status& why) {
  core_->log.Write(LogLevel::kWarning, "handshake_refused",
                   {{"peer", peer}, {"why", why.message()}});
}

// Once for a connection, since it ends with that.
void Dispatcher::LogBadFrame(const net::ConnectionPtr& connection, const Status& why) {
  core_->log.Write(LogLevel::kWarning, "bad_frame",
                   {{"peer", connection->peer()}, {"why", why.message()}});
}

void Dispatcher::Enqueue(const StatePtr& state, RequestPtr request) {
  if (state->held) {
    state->waiting.push_back(std::move(request));
  } else {
    state->held = !Serve(state, request);
  }
}

bool Dispatcher::Serve(const StatePtr& state, const RequestPtr& request) {
  // What other servers have applied is taken to the very end: their own ends wait for it.
  const bool is_copy = request->type == wire::MessageType::kReplicate;
  if (!is_copy && core_->closing.load(std::memory_order_acquire)) {
    request->Fail(ConnectionError(core_->Name() + " is stopping"));
    return true;
  }
  if (request->type == wire::MessageType::kControl) {
    control_->Serve(request);
    return true;
  }
  DefinitionPtr definition = core_->definition();
  if (definition == nullptr) {
    request->Fail(NotDefined(*core_));
    return true;
  }
  if (is_copy) {
    ServeReplicate(request, std::move(definition));
    return true;
  }
  auto release = [this, state] { Released(state); };
  return request->type == wire::MessageType::kPull
             ? ServePull(request, std::move(definition), std::move(release))
             : ServePush(request, std::move(definition), std::move(release));
}

void Dispatcher::Released(const StatePtr& state) {
  state->held = false;
  while (!state->held && !state->waiting.empty()) {
    RequestPtr next = std::move(state->waiting.front());
    state->waiting.pop_front();
    state->held = !Serve(state, next);
  }
}

}  // namespace ps::server
