#include "ps/coordinator/coordinator.h"

#include <pthread.h>

#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

#include "ps/base/duration.h"
#include "ps/coordinator/membership.h"
#include "ps/coordinator/server_calls.h"
#include "ps/net/listener.h"
#include "ps/sharding/json_fields.h"
#include "ps/wire/handshake.h"

namespace ps::coordinator {
namespace {

using sharding::ClusterDefinition;
using sharding::Json;
using DefinitionPtr = std::shared_ptr<const ClusterDefinition>;

constexpr Duration kSilenceCheckInterval = std::chrono::seconds(1);
constexpr Duration kStopCallTimeout = std::chrono::seconds(5);
// Changes that clients asked for and that wait for their turn.
constexpr std::size_t kTasksWaitingMax = 1'024;

SteadyTime Now() { return std::chrono::steady_clock::now(); }

const char* StateName(ServerState state) {
  switch (state) {
    case ServerState::kStarting:
      return "starting";
    case ServerState::kRunning:
      return "running";
    case ServerState::kLost:
      return "lost";
    case ServerState::kStopped:
      return "stopped";
  }
  return "";
}

Result<ServerRecord> ParseRegistration(const Json& json) {
  ServerRecord record;
  PS_ASSIGN_OR_RETURN(record.server_id,
                      sharding::GetUnsigned(json, "server_id", limits::kServersMax));
  PS_ASSIGN_OR_RETURN(record.endpoint.host, sharding::GetString(json, "host"));
  PS_ASSIGN_OR_RETURN(record.endpoint.port, sharding::GetUnsigned(json, "port", 65'535));
  PS_ASSIGN_OR_RETURN(record.endpoint.unix_path, sharding::GetString(json, "unix_path"));
  PS_ASSIGN_OR_RETURN(record.incarnation, sharding::GetUnsigned(json, "incarnation"));
  PS_ASSIGN_OR_RETURN(record.pid, sharding::GetUnsigned(json, "pid", 1ull << 32));
  return record;
}

Result<std::vector<sharding::TensorDefinition>> ParseTensors(const Json& json) {
  PS_ASSIGN_OR_RETURN(const Json* listed, sharding::GetArray(json, "tensors", limits::kTensorsMax));
  std::vector<sharding::TensorDefinition> tensors;
  for (const Json& one : *listed) {
    PS_ASSIGN_OR_RETURN(auto tensor, sharding::TensorFromJson(sharding::Dump(one)));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// The first definition, checked as one that came over the wire is.
Result<DefinitionPtr> FirstDefinition(const CoordinatorOptions& options) {
  ClusterDefinition definition;
  definition.version = 1;
  definition.seed = options.seed;
  definition.weight_optimizer = options.weight_optimizer;
  definition.tables = options.tables;
  for (std::size_t i = 0; i < definition.tables.size(); ++i) {
    definition.tables[i].id = static_cast<TableId>(i);
  }
  PS_ASSIGN_OR_RETURN(definition.map,
                      sharding::BuildPartitionMap(options.server_count, options.virtual_nodes,
                                                  options.partition_count));
  PS_ASSIGN_OR_RETURN(definition, ClusterDefinition::FromJson(definition.ToJson()));
  return std::make_shared<const ClusterDefinition>(std::move(definition));
}

// Adds the table; false when it is there already. Another definition under its name: error.
Result<bool> AddTable(sharding::TableDefinition table, ClusterDefinition* definition) {
  if (const sharding::TableDefinition* old = definition->FindTable(table.name)) {
    if (old->SameAs(table)) return false;
    return InvalidArgument("table '" + table.name +
                           "' exists with another definition: " + sharding::TableToJson(*old) +
                           "; asked for was " + sharding::TableToJson(table));
  }
  if (definition->tables.size() >= limits::kTablesMax) {
    return ResourceExhausted("table '" + table.name + "': a cluster has at most " +
                             std::to_string(limits::kTablesMax) + " tables");
  }
  table.id = static_cast<TableId>(definition->tables.size());
  definition->tables.push_back(std::move(table));
  return true;
}

std::string ShapeText(const std::vector<std::uint64_t>& shape) { return Json(shape).dump(); }

Result<bool> AddTensor(sharding::TensorDefinition tensor, ClusterDefinition* definition) {
  if (const sharding::TensorDefinition* old = definition->FindTensor(tensor.name)) {
    if (old->shape == tensor.shape) return false;
    return InvalidArgument("dense tensor '" + tensor.name + "' exists with shape " +
                           ShapeText(old->shape) + "; asked for was " + ShapeText(tensor.shape));
  }
  if (definition->tensors.size() >= limits::kTensorsMax) {
    return ResourceExhausted("dense tensor '" + tensor.name + "': a cluster has at most " +
                             std::to_string(limits::kTensorsMax));
  }
  tensor.id = static_cast<TensorId>(definition->tensors.size());
  definition->tensors.push_back(std::move(tensor));
  return true;
}

}  // namespace

std::string ServersToJson(const std::vector<ServerRecord>& servers) {
  Json list = Json::array();
  for (const ServerRecord& server : servers) {
    list.push_back({{"server_id", server.server_id},
                    {"state", StateName(server.state)},
                    {"host", server.endpoint.host},
                    {"port", server.endpoint.port},
                    {"unix_path", server.endpoint.unix_path},
                    {"incarnation", server.incarnation},
                    {"pid", server.pid}});
  }
  return sharding::Dump(list);
}

struct Coordinator::Impl final : net::FrameHandler {
  explicit Impl(CoordinatorOptions the_options)
      : options(std::move(the_options)),
        calls(options.server_count, options.secret),
        context(1),
        silence_timer(context),
        members(options.server_count, Seconds(options.driver_silence_seconds)) {}
  ~Impl() override;

  Status Start();

  // --- frames, on the io thread
  void OnFrame(const net::ConnectionPtr& connection, net::Frame frame) override;
  void OnClose(const net::ConnectionPtr& connection, const Status& why) override;
  void Serve(const net::ConnectionPtr& connection, std::uint64_t request_id,
             const std::string& text);
  Result<std::string> ServeRegister(const net::ConnectionPtr& connection, const Json& json);
  Result<std::string> ServeHeartbeat(const net::ConnectionPtr& connection);
  void ServeLater(const net::ConnectionPtr& connection, std::uint64_t request_id,
                  std::function<Result<std::string>()> work);
  void CheckSilence();

  // --- changes, on the worker's or a caller's thread
  void Work();
  bool Enqueue(std::function<void()> task);
  void DefineFirst();
  Result<DefinitionPtr> Change(const std::function<Result<bool>(ClusterDefinition*)>& change);
  Status Tell(const DefinitionPtr& next, SteadyTime deadline, bool* refused_by_first);
  Status CreateTable(const sharding::TableDefinition& table);
  Result<std::vector<std::string>> DefineTensors(std::vector<sharding::TensorDefinition> tensors);
  bool Gone(std::uint32_t server);
  bool Stopping();
  Status CheckRunning();
  Status FinalWhenLost(const Status& status);
  DefinitionPtr Current() {
    std::lock_guard lock(mutex);
    return definition;
  }

  const CoordinatorOptions options;
  std::mutex change_mutex;  // one change of the definition at a time; taken before calls_mutex
  std::mutex calls_mutex;   // one call to servers at a time; taken before `mutex`
  ServerCalls calls;
  std::vector<std::uint64_t> told;  // by server: the version it holds; under change_mutex

  asio::io_context context;
  asio::steady_timer silence_timer;
  std::unique_ptr<net::Listener> listener;
  std::thread io_thread;
  std::unordered_map<std::uint64_t, net::ConnectionPtr> lines;  // io thread only
  std::unordered_map<std::uint64_t, std::string> partial;       // io thread: control in frames

  std::mutex mutex;
  std::condition_variable changed;
  Membership members;
  DefinitionPtr definition;
  bool running = false;
  Status start_error;
  double stop_grace_seconds = 0.0;
  bool closing = false;
  std::deque<std::function<void()>> tasks;
  std::thread worker;
};

Status Coordinator::Impl::Start() {
  if (options.server_count < 1 || options.server_count > limits::kServersMax) {
    return Status(StatusCode::kConfiguration,
                  "server_count is " + std::to_string(options.server_count) + ", allowed is 1 to " +
                      std::to_string(limits::kServersMax));
  }
  PS_ASSIGN_OR_RETURN(definition, FirstDefinition(options));
  told.resize(options.server_count);
  PS_ASSIGN_OR_RETURN(wire::Nonce nonce, wire::RandomNonce());
  net::ListenerOptions listen;
  listen.host = options.bind_host;
  listen.port_base = options.port_base;
  listen.secret = options.secret;
  listen.identity.server_id = wire::kCoordinatorId;
  std::memcpy(&listen.identity.incarnation, nonce.data(), sizeof(listen.identity.incarnation));
  listen.payload_bytes_max = limits::kControlPayloadBytesMax;
  PS_ASSIGN_OR_RETURN(listener, net::Listener::Start(listen, {&context}, this));
  CheckSilence();
  io_thread = std::thread([this] {
    pthread_setname_np(pthread_self(), "ps-coordinator");
    context.run();
  });
  worker = std::thread([this] { Work(); });
  return Status::Ok();
}

Coordinator::Impl::~Impl() {
  {
    std::lock_guard lock(mutex);
    closing = true;
    changed.notify_all();
  }
  calls.Abort();
  if (worker.joinable()) worker.join();
  if (listener != nullptr) listener->Stop();
  context.stop();
  if (io_thread.joinable()) io_thread.join();
  // Closes every connection: the servers see their life lines end.
  lines.clear();
  listener.reset();
}

void Coordinator::Impl::OnFrame(const net::ConnectionPtr& connection, net::Frame frame) {
  if (frame.header.type != wire::MessageType::kControl) {
    connection->SendError(frame.header.request_id,
                          InvalidArgument("the coordinator takes control requests only"));
    connection->Close();
    return;
  }
  std::string& text = partial[connection->id()];
  auto bytes = frame.payload.span();
  if (text.size() + bytes.size() > limits::kControlPayloadBytesMax) {
    connection->SendError(
        frame.header.request_id,
        ResourceExhausted("a control request of more than " +
                          std::to_string(limits::kControlPayloadBytesMax) + " bytes"));
    connection->Close();
    return;
  }
  text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if ((frame.header.flags & wire::kMore) != 0) return;
  std::string whole = std::exchange(text, "");
  Serve(connection, frame.header.request_id, whole);
}

void Coordinator::Impl::OnClose(const net::ConnectionPtr& connection, const Status&) {
  partial.erase(connection->id());
  if (lines.erase(connection->id()) == 0) return;
  std::lock_guard lock(mutex);
  members.LineEnded(connection->id());
  changed.notify_all();
}

namespace {

void Reply(const net::ConnectionPtr& connection, std::uint64_t request_id,
           const Result<std::string>& answer) {
  if (!answer.ok()) {
    connection->SendError(request_id, answer.status());
    return;
  }
  net::Buffer payload(answer->size());
  std::memcpy(payload.data(), answer->data(), answer->size());
  wire::FrameHeader header;
  header.type = wire::MessageType::kControlReply;
  header.request_id = request_id;
  connection->Send(header, std::move(payload));
}

}  // namespace

void Coordinator::Impl::Serve(const net::ConnectionPtr& connection, std::uint64_t request_id,
                              const std::string& text) {
  auto json = sharding::ParseObject(text);
  auto op = json.ok() ? sharding::GetString(*json, "op") : Result<std::string>(json.status());
  if (!op.ok()) {
    Reply(connection, request_id, InvalidArgument("control request: " + op.status().message()));
  } else if (*op == "register") {
    Reply(connection, request_id, ServeRegister(connection, *json));
  } else if (*op == "heartbeat") {
    Reply(connection, request_id, ServeHeartbeat(connection));
  } else if (*op == "describe") {
    Reply(connection, request_id, "{\"definition\":" + Current()->ToJson() + "}");
  } else if (*op == "servers") {
    std::lock_guard lock(mutex);
    Reply(connection, request_id, "{\"servers\":" + ServersToJson(members.Records()) + "}");
  } else if (*op == "create_table") {
    ServeLater(connection, request_id, [this, json = *json]() -> Result<std::string> {
      PS_ASSIGN_OR_RETURN(const Json* table, sharding::GetObject(json, "table"));
      PS_ASSIGN_OR_RETURN(auto parsed, sharding::TableFromJson(sharding::Dump(*table)));
      PS_RETURN_IF_ERROR(CreateTable(parsed));
      return "{\"definition\":" + Current()->ToJson() + "}";
    });
  } else if (*op == "define_tensors") {
    ServeLater(connection, request_id, [this, json = *json]() -> Result<std::string> {
      PS_ASSIGN_OR_RETURN(auto tensors, ParseTensors(json));
      PS_ASSIGN_OR_RETURN(std::vector<std::string> created, DefineTensors(std::move(tensors)));
      return "{\"definition\":" + Current()->ToJson() +
             ",\"created\":" + sharding::Dump(Json(created)) + "}";
    });
  } else {
    Reply(connection, request_id,
          InvalidArgument("unknown operation '" + op->substr(0, 64) +
                          "'; the coordinator knows register, heartbeat, describe, servers, "
                          "create_table, define_tensors"));
  }
}

Result<std::string> Coordinator::Impl::ServeRegister(const net::ConnectionPtr& connection,
                                                     const Json& json) {
  PS_ASSIGN_OR_RETURN(ServerRecord record, ParseRegistration(json));
  bool all = false;
  {
    std::lock_guard lock(mutex);
    PS_RETURN_IF_ERROR(members.Register(std::move(record), connection->id(), Now()));
    all = members.all_registered();
  }
  lines[connection->id()] = connection;
  if (all) Enqueue([this] { DefineFirst(); });
  return std::string("{}");
}

Result<std::string> Coordinator::Impl::ServeHeartbeat(const net::ConnectionPtr& connection) {
  std::lock_guard lock(mutex);
  if (!members.Heard(connection->id(), Now()).has_value()) {
    return InvalidArgument("a heartbeat from a connection that has not registered");
  }
  return sharding::Dump({{"stop", members.stopping()}, {"grace_seconds", stop_grace_seconds}});
}

void Coordinator::Impl::ServeLater(const net::ConnectionPtr& connection, std::uint64_t request_id,
                                   std::function<Result<std::string>()> work) {
  bool taken = Enqueue(
      [this, connection, request_id, work = std::move(work)] {
        Result<std::string> answer = work();
        if (!answer.ok()) answer = FinalWhenLost(answer.status());
        Reply(connection, request_id, answer);
      });
  if (taken) return;
  Reply(connection, request_id, ConnectionError("the coordinator is busy or closing; try again"));
}

void Coordinator::Impl::CheckSilence() {
  silence_timer.expires_after(kSilenceCheckInterval);
  silence_timer.async_wait([this](const asio::error_code& error) {
    if (error) return;
    std::vector<std::uint64_t> ended;
    {
      std::lock_guard lock(mutex);
      ended = members.EndSilentLines(Now());
      if (!ended.empty()) changed.notify_all();
    }
    for (std::uint64_t line : ended) {
      if (auto found = lines.find(line); found != lines.end()) found->second->Close();
    }
    CheckSilence();
  });
}

void Coordinator::Impl::Work() {
  pthread_setname_np(pthread_self(), "ps-coord-work");
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [this] { return closing || !tasks.empty(); });
      if (closing) return;
      task = std::move(tasks.front());
      tasks.pop_front();
    }
    task();
  }
}

bool Coordinator::Impl::Enqueue(std::function<void()> task) {
  std::lock_guard lock(mutex);
  if (closing || tasks.size() >= kTasksWaitingMax) return false;
  tasks.push_back(std::move(task));
  changed.notify_all();
  return true;
}

void Coordinator::Impl::DefineFirst() {
  bool refused = false;
  Status status;
  {
    std::lock_guard change(change_mutex);
    status = Tell(Current(), Now() + Seconds(options.timeout_seconds), &refused);
  }
  std::lock_guard lock(mutex);
  if (status.ok()) {
    members.MarkRunning();
    running = true;
  } else {
    start_error = status;
  }
  changed.notify_all();
}

bool Coordinator::Impl::Gone(std::uint32_t server) {
  std::lock_guard lock(mutex);
  ServerState state = members.record(server).state;
  return closing || state == ServerState::kLost || state == ServerState::kStopped;
}

bool Coordinator::Impl::Stopping() {
  std::lock_guard lock(mutex);
  return members.stopping();
}

// Gives `next` to every server that does not hold it yet. Requires change_mutex.
Status Coordinator::Impl::Tell(const DefinitionPtr& next, SteadyTime deadline,
                               bool* refused_by_first) {
  std::string json = "{\"op\":\"define\",\"definition\":" + next->ToJson() + "}";
  std::vector<ServerRecord> servers;
  {
    std::lock_guard lock(mutex);
    servers = members.Records();
  }
  bool first = true;
  for (const ServerRecord& server : servers) {
    if (told[server.server_id] >= next->version) continue;
    std::lock_guard one(calls_mutex);
    Result<std::string> reply =
        calls.Call(server, json, deadline, [&] { return Stopping() || Gone(server.server_id); });
    if (!reply.ok()) {
      StatusCode code = reply.status().code();
      *refused_by_first = first && code != StatusCode::kConnection &&
                          code != StatusCode::kTimeout && code != StatusCode::kClosed;
      return reply.status();
    }
    told[server.server_id] = next->version;
    first = false;
  }
  return Status::Ok();
}

Status Coordinator::Impl::CheckRunning() {
  std::lock_guard lock(mutex);
  if (members.stopping() || closing) {
    return Status(StatusCode::kClosed, "the cluster is stopping");
  }
  if (auto lost = members.IdsIn(ServerState::kLost); !lost.empty()) {
    return ConnectionError("server " + IdList(lost) + " was lost");
  }
  if (!running) return ConnectionError("the cluster is starting; try again");
  return Status::Ok();
}

// A client repeats what failed with kConnection until its deadline, but a lost server does not come
// back: kClosed is not repeated.
Status Coordinator::Impl::FinalWhenLost(const Status& status) {
  std::lock_guard lock(mutex);
  bool is_lost = !members.IdsIn(ServerState::kLost).empty();
  if (status.code() != StatusCode::kConnection || !is_lost) return status;
  return Status(StatusCode::kClosed, status.message());
}

// Once a server may hold the new definition it is the cluster's, even when another could not be
// told: definitions only grow, and every later change tells those who lack something.
Result<DefinitionPtr> Coordinator::Impl::Change(
    const std::function<Result<bool>(ClusterDefinition*)>& change) {
  std::lock_guard one(change_mutex);
  PS_RETURN_IF_ERROR(CheckRunning());
  DefinitionPtr now = Current();
  auto next = std::make_shared<ClusterDefinition>(*now);
  PS_ASSIGN_OR_RETURN(bool differs, change(next.get()));
  if (differs) ++next->version;
  DefinitionPtr target = differs ? DefinitionPtr(next) : now;
  bool refused_by_first = false;
  Status status = Tell(target, Now() + Seconds(options.timeout_seconds), &refused_by_first);
  if (refused_by_first) return status;
  {
    std::lock_guard lock(mutex);
    definition = target;
  }
  if (!status.ok()) return status;
  return target;
}

Status Coordinator::Impl::CreateTable(const sharding::TableDefinition& table) {
  PS_ASSIGN_OR_RETURN(auto checked, sharding::TableFromJson(sharding::TableToJson(table)));
  Result<DefinitionPtr> changed_to =
      Change([&](ClusterDefinition* definition_now) { return AddTable(checked, definition_now); });
  return changed_to.ok() ? Status::Ok() : changed_to.status();
}

Result<std::vector<std::string>> Coordinator::Impl::DefineTensors(
    std::vector<sharding::TensorDefinition> tensors) {
  std::vector<std::string> created;
  auto change = [&](ClusterDefinition* definition_now) -> Result<bool> {
    for (const sharding::TensorDefinition& tensor : tensors) {
      PS_ASSIGN_OR_RETURN(bool added, AddTensor(tensor, definition_now));
      if (added) created.push_back(tensor.name);
    }
    return !created.empty();
  };
  PS_ASSIGN_OR_RETURN(DefinitionPtr now, Change(change));
  return created;
}

// --- the public face

Result<std::unique_ptr<Coordinator>> Coordinator::Start(CoordinatorOptions options) {
  if (options.advertised_host.empty()) {
    options.advertised_host = options.bind_host.empty() ? "127.0.0.1" : options.bind_host;
  }
  std::unique_ptr<Coordinator> coordinator(
      new Coordinator(std::make_unique<Impl>(std::move(options))));
  PS_RETURN_IF_ERROR(coordinator->impl_->Start());
  return coordinator;
}

Coordinator::Coordinator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Coordinator::~Coordinator() = default;

net::Endpoint Coordinator::endpoint() const {
  return {impl_->options.advertised_host, impl_->listener->port(), ""};
}

Status Coordinator::WaitRunning(SteadyTime deadline) {
  std::unique_lock lock(impl_->mutex);
  auto lost = [this] { return impl_->members.IdsIn(ServerState::kLost); };
  auto decided = [&] {
    return impl_->running || !impl_->start_error.ok() || impl_->closing ||
           impl_->members.stopping() || !lost().empty();
  };
  bool in_time = impl_->changed.wait_until(lock, deadline, decided);
  if (!impl_->start_error.ok()) return impl_->start_error;
  if (!lost().empty()) {
    return ConnectionError("server " + IdList(lost()) + " ended while the cluster was starting");
  }
  if (impl_->closing || impl_->members.stopping()) {
    return Status(StatusCode::kClosed, "the cluster is stopping");
  }
  if (in_time) return Status::Ok();
  auto missing = impl_->members.IdsMissing();
  if (missing.empty())
    return TimeoutError("the servers did not take the tables' definitions in time");
  return TimeoutError(
      "server " + IdList(missing) + " of " + std::to_string(impl_->options.server_count) +
      " did not register with the coordinator at " + endpoint().ToString() + " in time");
}

std::vector<ServerRecord> Coordinator::Servers() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->members.Records();
}

std::shared_ptr<const ClusterDefinition> Coordinator::definition() const {
  return impl_->Current();
}

Status Coordinator::CreateTable(const sharding::TableDefinition& table) {
  return impl_->CreateTable(table);
}

Result<std::vector<std::string>> Coordinator::DefineTensors(
    std::vector<sharding::TensorDefinition> tensors) {
  for (sharding::TensorDefinition& tensor : tensors) {
    Json json{{"name", tensor.name}, {"shape", tensor.shape}};
    PS_ASSIGN_OR_RETURN(tensor, sharding::TensorFromJson(sharding::Dump(json)));
  }
  return impl_->DefineTensors(std::move(tensors));
}

Status Coordinator::StopServers(double grace_seconds, SteadyTime deadline) {
  std::vector<ServerRecord> servers;
  std::vector<std::uint32_t> with_line;
  {
    std::lock_guard lock(impl_->mutex);
    impl_->members.BeginStopping();
    impl_->stop_grace_seconds = grace_seconds;
    servers = impl_->members.Records();
    with_line = impl_->members.IdsWithLine();
    impl_->changed.notify_all();
  }
  std::string json =
      sharding::Dump({{"op", "stop"}, {"grace_seconds", std::max(grace_seconds, 0.0)}});
  for (const ServerRecord& server : servers) {
    if (std::find(with_line.begin(), with_line.end(), server.server_id) == with_line.end())
      continue;
    std::lock_guard one(impl_->calls_mutex);
    // Who cannot be told now hears it with the next heartbeat.
    (void)impl_->calls.Call(server, json, std::min(deadline, Now() + kStopCallTimeout),
                            [&] { return impl_->Gone(server.server_id); });
  }
  std::unique_lock lock(impl_->mutex);
  auto all_gone = [this] { return impl_->members.IdsWithLine().empty(); };
  if (impl_->changed.wait_until(lock, deadline, all_gone)) return Status::Ok();
  return TimeoutError("server " + IdList(impl_->members.IdsWithLine()) + " did not end in time");
}

}  // namespace ps::coordinator
