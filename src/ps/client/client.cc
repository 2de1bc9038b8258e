#include "ps/client/client.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "ps/base/duration.h"
#include "ps/base/limits.h"
#include "ps/client/call.h"
#include "ps/client/channel_pool.h"
#include "ps/client/push_checks.h"
#include "ps/client/request.h"
#include "ps/client/tensor_cache.h"
#include "ps/client/tensor_pull.h"
#include "ps/sharding/json_fields.h"
#include "ps/wire/handshake.h"

namespace ps::client {
namespace {

using Definition = sharding::ClusterDefinition;
using DefinitionPtr = std::shared_ptr<const Definition>;

// Ending the client's own streams on Close is a courtesy to the servers' memory.
constexpr std::chrono::seconds kGoodbyeMax{2};
// A server that is asked who is lost.
constexpr std::chrono::milliseconds kAskTimeout{300};
// How much later than the coordinator's own time-out its answer may come.
constexpr double kAnswerMarginSeconds = 10.0;

Result<std::uint64_t> RandomStream() {
  PS_ASSIGN_OR_RETURN(wire::Nonce nonce, wire::RandomNonce());
  std::uint64_t stream = 0;
  std::memcpy(&stream, nonce.data(), sizeof(stream));
  return stream == 0 ? 1 : stream;  // 0 means "no stream"
}

Status CheckOptions(const ClientOptions& options) {
  if (options.servers.empty()) return InvalidArgument("a client needs the address of a server");
  for (std::size_t i = 0; i < options.servers.size(); ++i) {
    if (options.servers[i].server_id != i) {
      return InvalidArgument("servers must be given by id, 0 to n - 1; at place " +
                             std::to_string(i) + " stands server " +
                             std::to_string(options.servers[i].server_id));
    }
  }
  if (!(options.timeout_seconds > 0)) {
    return Status(StatusCode::kConfiguration, "timeout_seconds must be more than 0");
  }
  return Status::Ok();
}

}  // namespace

struct Client::Impl {
  struct SequenceNumber {
    std::uint64_t stream = 0;
    std::uint64_t sequence = 0;
  };

  // What belongs to one process; a forked child makes its own.
  struct Process {
    explicit Process(const ClientOptions& options)
        : pid(::getpid()), pool(options.servers.size(), options.channels_max) {}
    const pid_t pid;
    std::atomic<pid_t> succeeded_by{0};
    ChannelPool pool;
    TensorCache tensors;
    // Which copies of dense tensors it reads (sharding/copies.h).
    const std::uint64_t reader = std::random_device{}();
    std::mutex mutex;
    DefinitionPtr definition;  // null in a forked child that could not take it over
  };

  // One call: its channel, its deadline, the tasks made of its requests.
  struct Call {
    Process* process;
    ChannelPool::Lease channel;
    SteadyTime deadline;
  };

  ClientOptions options;
  std::atomic<Process*> process{nullptr};
  std::atomic<std::uint64_t> bytes_sent{0};
  std::atomic<std::uint64_t> bytes_received{0};
  std::atomic<std::uint64_t> retries{0};
  std::atomic<bool> is_closed{false};

  ~Impl() { delete process.load(); }

  Process* Current();
  Result<Call> Begin();
  DefinitionPtr definition() {
    Process* current = Current();
    std::lock_guard lock(current->mutex);
    return current->definition;
  }
  Status LearnDefinition(Call& call);
  Result<DefinitionPtr> DefinitionWith(Call& call, std::size_t tables, std::size_t tensors);

  Task TaskFor(Call& call, ServerRequest* request);
  Status Run(Call& call, std::vector<Task> tasks, std::function<bool()> is_moot = nullptr);
  void AddStats(const ClientStats& added);
  Status RunRequests(Call& call, const Definition& definition, bool has_tensors,
                     std::vector<ServerRequest>& requests);
  Result<DefinitionPtr> AskServer(Call& call, ServerId server);
  bool HasHeardOfLoss(Call& call, const Definition& used);
  Status PullWith(Call& call, const Definition& definition, std::span<const RowsPull> rows,
                  std::span<const TensorPull> tensors);
  Result<std::string> ControlOne(Call& call, const Task& task);
  Result<std::string> AskCoordinator(const std::string& json, const ClientOptions& call_options);
  FrameLimits frame_limits() const;
  KeyBatch* Batch(Channel& channel, std::size_t i);
  std::vector<ServerRequest> MakeRequests(const Definition& definition, wire::MessageType type);
  void AddRows(const Definition& definition, const KeyBatch& batch, const Section& section,
               std::vector<RequestBuilder>& builders);
  void AddTensorPush(const Definition& definition, const TensorPush& push, float rate_scale,
                     std::vector<RequestBuilder>& builders);
  Result<SequenceNumber> Number(Call& call, const PushOptions& push);
  void EndOwnStreams(std::span<const std::unique_ptr<Channel>> channels);
};

// The state of this process. The first call in a forked child makes it, with connections and
// streams of its own; locks that another thread of the parent held are left behind with the rest.
Client::Impl::Process* Client::Impl::Current() {
  Process* current = process.load(std::memory_order_acquire);
  const pid_t pid = ::getpid();
  if (current->pid == pid) return current;
  if (current->succeeded_by.exchange(pid) == pid) {
    while (process.load(std::memory_order_acquire) == current) std::this_thread::yield();
    return process.load(std::memory_order_acquire);
  }
  current->pool.AbandonAfterFork();
  auto* fresh = new Process(options);
  if (current->mutex.try_lock()) fresh->definition = current->definition;
  process.store(fresh, std::memory_order_release);
  return fresh;
}

Result<Client::Impl::Call> Client::Impl::Begin() {
  if (is_closed) return Status(StatusCode::kClosed, "the client is closed");
  SteadyTime deadline = Now() + Seconds(options.timeout_seconds);
  Process* current = Current();
  PS_ASSIGN_OR_RETURN(ChannelPool::Lease channel, current->pool.Acquire(deadline));
  return Call{current, std::move(channel), deadline};
}

Task Client::Impl::TaskFor(Call& call, ServerRequest* request) {
  Link* link = request->home ? &call.channel->stand_ins[*request->home]
                             : &call.channel->servers[request->server];
  const bool is_other =
      link->connection != nullptr && link->connection->peer().server_id != request->server;
  if (is_other) link->connection.reset();
  return {{&options.servers[request->server], false}, link, request};
}

Status Client::Impl::Run(Call& call, std::vector<Task> tasks, std::function<bool()> is_moot) {
  ClientStats added;
  Status status = RunTasks(tasks, {call.deadline, &options, std::move(is_moot)}, &added);
  AddStats(added);
  return status;
}

void Client::Impl::AddStats(const ClientStats& added) {
  bytes_sent += added.bytes_sent;
  bytes_received += added.bytes_received;
  retries += added.retries;
}

// What has sections and is not done. A call for dense tensors that have copies asks about lost
// servers before it repeats anything, and when it has failed, so that at least the next one knows.
Status Client::Impl::RunRequests(Call& call, const Definition& definition, bool has_tensors,
                                 std::vector<ServerRequest>& requests) {
  std::vector<Task> tasks;
  for (ServerRequest& request : requests) {
    if (!request.sections.empty() && !request.is_done) tasks.push_back(TaskFor(call, &request));
  }
  if (tasks.empty()) return Status::Ok();
  if (!has_tensors || definition.weight_copies.copies == 1) return Run(call, std::move(tasks));
  auto is_moot = [&] { return HasHeardOfLoss(call, definition); };
  Status status = Run(call, std::move(tasks), is_moot);
  const bool may_be_lost =
      status.code() == StatusCode::kConnection || status.code() == StatusCode::kTimeout;
  if (may_be_lost) (void)is_moot();
  return status;
}

// Whether a server is lost that was not when `used` was learnt; then the newer definition is known.
bool Client::Impl::HasHeardOfLoss(Call& call, const Definition& used) {
  const auto differs = [&](const DefinitionPtr& now) {
    return now != nullptr && now->weight_copies.lost != used.weight_copies.lost;
  };
  if (differs(definition())) return true;
  const SteadyTime end = std::exchange(call.deadline, SteadyTime());
  bool has_answer = false;
  for (ServerId server = 0; server < options.servers.size() && !has_answer; ++server) {
    if (used.weight_copies.IsLost(server)) continue;
    call.deadline = Now() + kAskTimeout;
    Result<DefinitionPtr> learnt = AskServer(call, server);
    has_answer = learnt.ok();
  }
  call.deadline = end;
  return differs(definition());
}

Result<std::string> Client::Impl::ControlOne(Call& call, const Task& task) {
  PS_RETURN_IF_ERROR(Run(call, {task}));
  return std::move(task.request->control_reply);
}

FrameLimits Client::Impl::frame_limits() const {
  return {std::max<std::size_t>(options.batch_size, 1),
          std::min(options.message_bytes_max, kFrameBytesAimed)};
}

KeyBatch* Client::Impl::Batch(Channel& channel, std::size_t i) {
  while (channel.batches.size() <= i) channel.batches.push_back(std::make_unique<KeyBatch>());
  return channel.batches[i].get();
}

std::vector<ServerRequest> Client::Impl::MakeRequests(const Definition& definition,
                                                      wire::MessageType type) {
  std::vector<ServerRequest> requests(definition.map.server_count);
  for (ServerId server = 0; server < requests.size(); ++server) {
    requests[server].server = server;
    requests[server].type = type;
  }
  return requests;
}

namespace {

std::vector<RequestBuilder> BuildersFor(std::vector<ServerRequest>& requests, FrameLimits limits) {
  std::vector<RequestBuilder> builders;
  builders.reserve(requests.size());
  for (ServerRequest& request : requests) builders.emplace_back(&request, limits);
  return builders;
}

void FinishAll(std::vector<RequestBuilder>& builders) {
  for (RequestBuilder& builder : builders) builder.Finish();
}

Result<DefinitionPtr> ParseDescription(const std::string& reply, std::size_t server_count) {
  PS_ASSIGN_OR_RETURN(sharding::Json json, sharding::ParseObject(reply));
  PS_ASSIGN_OR_RETURN(const sharding::Json* described, sharding::GetObject(json, "definition"));
  PS_ASSIGN_OR_RETURN(Definition definition, Definition::FromJson(sharding::Dump(*described)));
  if (definition.map.server_count != server_count) {
    return InvalidArgument("the cluster has " + std::to_string(definition.map.server_count) +
                           " servers, but " + std::to_string(server_count) +
                           " addresses were given");
  }
  return std::make_shared<const Definition>(std::move(definition));
}

}  // namespace

// Asks the servers in turn, each with its share of the time left, until one answers. From the
// highest id down: the coordinator tells them a new definition from the lowest id up, so that what
// the highest knows every server knows.
Status Client::Impl::LearnDefinition(Call& call) {
  Status failures = Status::Ok();
  DefinitionPtr known = definition();
  for (std::size_t left = options.servers.size(); left > 0; --left) {
    const bool is_lost = known != nullptr && known->weight_copies.IsLost(left - 1);
    if (is_lost && left > 1) continue;
    SteadyTime end = call.deadline;
    call.deadline = Now() + (end - Now()) / static_cast<long>(left);
    Status status = AskServer(call, static_cast<ServerId>(left - 1)).status();
    call.deadline = end;
    const bool is_over = status.ok() || status.code() == StatusCode::kInvalidArgument;
    if (is_over) return status;
    if (failures.ok()) {
      failures = status;
    } else {
      failures = Status(failures.code(), failures.message() + "; " + status.message());
    }
    if (status.code() == StatusCode::kClosed) break;  // interrupted
  }
  return failures;
}

// What one server says the definition is, kept when it is news.
Result<DefinitionPtr> Client::Impl::AskServer(Call& call, ServerId server) {
  ServerRequest request;
  request.server = server;
  request.type = wire::MessageType::kControl;
  request.control = R"({"op":"describe"})";
  PS_ASSIGN_OR_RETURN(std::string reply, ControlOne(call, TaskFor(call, &request)));
  PS_ASSIGN_OR_RETURN(DefinitionPtr learnt, ParseDescription(reply, options.servers.size()));
  std::lock_guard lock(call.process->mutex);
  DefinitionPtr& known = call.process->definition;
  if (known == nullptr || learnt->version >= known->version) known = learnt;
  return learnt;
}

// A definition that has that many tables and tensors, asking a server when the known one has not.
Result<DefinitionPtr> Client::Impl::DefinitionWith(Call& call, std::size_t tables,
                                                   std::size_t tensors) {
  DefinitionPtr known = definition();
  for (int attempt = 0; attempt < 2; ++attempt) {
    if (known != nullptr && known->tables.size() >= tables && known->tensors.size() >= tensors) {
      return known;
    }
    if (attempt == 0) PS_RETURN_IF_ERROR(LearnDefinition(call));
    known = definition();
  }
  return NotFound("table or dense weight number " + std::to_string(std::max(tables, tensors) - 1) +
                  " does not exist");
}

void Client::Impl::AddRows(const Definition& definition, const KeyBatch& batch,
                           const Section& section, std::vector<RequestBuilder>& builders) {
  for (ServerId server = 0; server < definition.map.server_count; ++server) {
    builders[server].AddRows(section, batch.begin(server), batch.begin(server + 1));
  }
}

namespace {

template <typename Rows, typename Tensors>
std::pair<std::size_t, std::size_t> IdsNeeded(std::span<const Rows> rows,
                                              std::span<const Tensors> tensors) {
  std::size_t tables = 0, weights = 0;
  for (const Rows& row : rows) tables = std::max<std::size_t>(tables, row.table + 1);
  for (const Tensors& tensor : tensors) weights = std::max<std::size_t>(weights, tensor.tensor + 1);
  return {tables, weights};
}

// Whether a call that failed with `used` has other servers to go to now.
bool IsMendedByLoss(const Status& status, const Definition& used, const Definition& now) {
  return status.code() == StatusCode::kConnection &&
         used.weight_copies.lost != now.weight_copies.lost;
}

// Sends the chunks of lost servers to those that own them now; rows have no copies.
void RouteToOwners(const Definition& definition, std::vector<ServerRequest>& requests) {
  for (ServerId home = 0; home < requests.size(); ++home) {
    const auto owner = definition.weight_copies.OwnerOf(home);
    const auto has_rows = [](const Section& section) { return section.batch != nullptr; };
    const bool stays =
        !owner || *owner == home || std::ranges::any_of(requests[home].sections, has_rows);
    requests[home].server = stays ? home : *owner;
    requests[home].home = stays ? std::nullopt : std::optional(home);
  }
}

}  // namespace

Status Client::Pull(std::span<const RowsPull> rows, std::span<const TensorPull> tensors) {
  PS_ASSIGN_OR_RETURN(Impl::Call call, impl_->Begin());
  auto [tables_needed, tensors_needed] = IdsNeeded(rows, tensors);
  PS_ASSIGN_OR_RETURN(DefinitionPtr definition,
                      impl_->DefinitionWith(call, tables_needed, tensors_needed));
  while (true) {
    Status status = impl_->PullWith(call, *definition, rows, tensors);
    DefinitionPtr now = impl_->definition();
    if (!IsMendedByLoss(status, *definition, *now)) return status;
    definition = std::move(now);
  }
}

Status Client::Impl::PullWith(Call& call, const Definition& definition,
                              std::span<const RowsPull> rows, std::span<const TensorPull> tensors) {
  auto requests = MakeRequests(definition, wire::MessageType::kPull);
  auto builders = BuildersFor(requests, frame_limits());

  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& table = definition.tables[rows[i].table];
    PS_RETURN_IF_ERROR(CheckKeyCount(table, rows[i].keys.size()));
    KeyBatch* batch = Batch(*call.channel, i);
    batch->Build(definition.map, table.salt(), rows[i].keys, &call.channel->key_table);
    Section section;
    section.head.id = table.id;
    section.head.dim = table.dim;
    section.head.flags = rows[i].create ? wire::kCreateMissing : 0;
    section.batch = batch;
    section.out = rows[i].out;
    AddRows(definition, *batch, section, builders);
  }
  std::vector<PendingTensor> pending;
  pending.reserve(tensors.size());
  for (const TensorPull& pull : tensors) {
    const auto& tensor = definition.tensors[pull.tensor];
    pending.emplace_back(tensor, pull, call.process->tensors);
    for (std::uint32_t chunk = 0; chunk < tensor.chunks(); ++chunk) {
      const ServerId home = sharding::ServerOfChunk(definition.map, tensor.salt(), chunk);
      // Of a home that is lost with all its copies the home itself is asked: the error names it.
      const ServerId server =
          definition.weight_copies.ReadFrom(home, call.process->reader).value_or(home);
      builders[server].AddChunk(pending.back().ChunkSection(chunk));
    }
  }
  FinishAll(builders);
  PS_RETURN_IF_ERROR(RunRequests(call, definition, !tensors.empty(), requests));

  for (std::size_t i = 0; i < rows.size(); ++i) {
    call.channel->batches[i]->CopyRepeats(rows[i].out, definition.tables[rows[i].table].dim);
  }
  for (PendingTensor& tensor : pending) {
    PS_RETURN_IF_ERROR(tensor.Finish(&call.process->tensors));
  }
  return Status::Ok();
}

void Client::Impl::AddTensorPush(const Definition& definition, const TensorPush& push,
                                 float rate_scale, std::vector<RequestBuilder>& builders) {
  const auto& tensor = definition.tensors[push.tensor];
  Section section;
  section.head.kind = push.assign ? wire::SectionKind::kChunkAssign : wire::SectionKind::kChunk;
  section.head.id = tensor.id;
  section.head.rate_scale = rate_scale;
  if (push.assign && push.only_if_absent) section.head.flags = wire::kOnlyIfAbsent;
  for (std::uint32_t chunk = 0; chunk < tensor.chunks(); ++chunk) {
    section.head.chunk = chunk;
    section.head.count = static_cast<std::uint32_t>(tensor.chunk_floats(chunk));
    section.values = push.values.data() + chunk * limits::kTensorChunkFloats;
    builders[sharding::ServerOfChunk(definition.map, tensor.salt(), chunk)].AddChunk(section);
  }
}

Result<Client::Impl::SequenceNumber> Client::Impl::Number(Call& call, const PushOptions& push) {
  if (push.stream != 0) return SequenceNumber{push.stream, push.sequence};
  Channel& channel = *call.channel;
  if (channel.stream == 0) {
    PS_ASSIGN_OR_RETURN(channel.stream, RandomStream());
  }
  return SequenceNumber{channel.stream, channel.next_sequence++};
}

Status Client::Push(std::span<const RowsPush> rows, std::span<const TensorPush> tensors,
                    const PushOptions& options) {
  PS_ASSIGN_OR_RETURN(Impl::Call call, impl_->Begin());
  auto [tables_needed, tensors_needed] = IdsNeeded(rows, tensors);
  PS_ASSIGN_OR_RETURN(DefinitionPtr definition,
                      impl_->DefinitionWith(call, tables_needed, tensors_needed));
  PS_RETURN_IF_ERROR(CheckPush(*definition, rows, tensors, options));
  auto requests = impl_->MakeRequests(*definition, wire::MessageType::kPush);
  auto builders = BuildersFor(requests, impl_->frame_limits());

  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto& table = definition->tables[rows[i].table];
    KeyBatch* batch = impl_->Batch(*call.channel, i);
    batch->Build(definition->map, table.salt(), rows[i].keys, &call.channel->key_table);
    Section section;
    section.head.id = table.id;
    section.head.dim = table.dim;
    section.head.rate_scale = options.rate_scale;
    section.batch = batch;
    section.values = rows[i].grads;
    impl_->AddRows(*definition, *batch, section, builders);
  }
  for (const TensorPush& tensor : tensors) {
    impl_->AddTensorPush(*definition, tensor, options.rate_scale, builders);
  }
  FinishAll(builders);
  PS_ASSIGN_OR_RETURN(Impl::SequenceNumber number, impl_->Number(call, options));
  for (ServerRequest& request : requests) {
    request.stream = number.stream;
    request.sequence = number.sequence;
  }
  while (true) {
    RouteToOwners(*definition, requests);
    Status status = impl_->RunRequests(call, *definition, !tensors.empty(), requests);
    if (status.code() == StatusCode::kInvalidArgument) {
      PS_RETURN_IF_ERROR(CheckRows(*definition, rows, call.channel->batches));
    }
    DefinitionPtr now = impl_->definition();
    if (!IsMendedByLoss(status, *definition, *now)) return status;
    definition = std::move(now);
  }
}

Result<std::vector<std::string>> Client::ControlAll(const std::string& json, bool once) {
  PS_ASSIGN_OR_RETURN(Impl::Call call, impl_->Begin());
  Impl::SequenceNumber number;
  if (once) {
    PS_ASSIGN_OR_RETURN(number, impl_->Number(call, {}));
  }
  std::vector<ServerRequest> requests(impl_->options.servers.size());
  std::vector<Task> tasks;
  for (ServerId server = 0; server < requests.size(); ++server) {
    ServerRequest& request = requests[server];
    request.server = server;
    request.type = wire::MessageType::kControl;
    request.stream = number.stream;
    request.sequence = number.sequence;
    request.control = json;
    tasks.push_back(impl_->TaskFor(call, &request));
  }
  PS_RETURN_IF_ERROR(impl_->Run(call, std::move(tasks)));
  std::vector<std::string> replies;
  replies.reserve(requests.size());
  for (ServerRequest& request : requests) replies.push_back(std::move(request.control_reply));
  return replies;
}

Result<std::string> Client::ControlServer(ServerId server, const std::string& json, bool once) {
  if (server >= impl_->options.servers.size()) {
    return InvalidArgument("server " + std::to_string(server) + " does not exist; there are " +
                           std::to_string(impl_->options.servers.size()));
  }
  PS_ASSIGN_OR_RETURN(Impl::Call call, impl_->Begin());
  ServerRequest request;
  request.server = server;
  request.type = wire::MessageType::kControl;
  if (once) {
    PS_ASSIGN_OR_RETURN(Impl::SequenceNumber number, impl_->Number(call, {}));
    request.stream = number.stream;
    request.sequence = number.sequence;
  }
  request.control = json;
  return impl_->ControlOne(call, impl_->TaskFor(call, &request));
}

Result<std::string> Client::Impl::AskCoordinator(const std::string& json,
                                                 const ClientOptions& call_options) {
  if (options.coordinator.port == 0) {
    return Status(StatusCode::kConfiguration, "this client was not told where the coordinator is");
  }
  PS_ASSIGN_OR_RETURN(Call call, Begin());
  ServerRequest request;
  request.type = wire::MessageType::kControl;
  request.control = json;
  ServerAddress coordinator{wire::kCoordinatorId, options.coordinator, 0};
  Task task{{&coordinator, true}, &call.channel->coordinator, &request};
  SteadyTime deadline = Now() + Seconds(call_options.timeout_seconds);
  ClientStats added;
  Status status = RunTasks(std::span(&task, 1), {deadline, &call_options, nullptr}, &added);
  AddStats(added);
  if (!status.ok()) return status;
  return std::move(request.control_reply);
}

Result<std::string> Client::ControlCoordinator(const std::string& json) {
  return impl_->AskCoordinator(json, impl_->options);
}

Result<std::string> Client::WaitAtCoordinator(const std::string& json, double timeout_seconds) {
  ClientOptions waiting = impl_->options;
  waiting.timeout_seconds = timeout_seconds + kAnswerMarginSeconds;
  waiting.is_interrupted = [impl = impl_.get()] {
    return impl->is_closed || (impl->options.is_interrupted && impl->options.is_interrupted());
  };
  return impl_->AskCoordinator(json, waiting);
}

Result<std::unique_ptr<Client>> Client::Connect(ClientOptions options) {
  PS_RETURN_IF_ERROR(CheckOptions(options));
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  impl->process = new Impl::Process(impl->options);
  std::unique_ptr<Client> client(new Client(std::move(impl)));
  PS_RETURN_IF_ERROR(client->Refresh());
  return client;
}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::~Client() { Close(); }

std::shared_ptr<const Definition> Client::definition() const { return impl_->definition(); }

Status Client::Refresh() {
  PS_ASSIGN_OR_RETURN(Impl::Call call, impl_->Begin());
  return impl_->LearnDefinition(call);
}

ClientStats Client::stats() const {
  return {impl_->bytes_sent, impl_->bytes_received, impl_->retries};
}

// Tells the servers that the client is connected to that its streams have ended.
void Client::Impl::EndOwnStreams(std::span<const std::unique_ptr<Channel>> channels) {
  auto streams = nlohmann::json::array();
  for (const auto& channel : channels) {
    if (channel->stream != 0) streams.push_back(std::to_string(channel->stream));
  }
  if (streams.empty()) return;
  nlohmann::json goodbye{{"op", "end_streams"}, {"streams", std::move(streams)}};
  std::vector<ServerRequest> requests(options.servers.size());
  std::vector<Exchange> exchanges;
  for (ServerId server = 0; server < requests.size(); ++server) {
    requests[server].type = wire::MessageType::kControl;
    requests[server].control = goodbye.dump();
    auto is_connected = [&](const auto& channel) {
      return channel->servers[server].connection != nullptr;
    };
    auto channel = std::find_if(channels.begin(), channels.end(), is_connected);
    if (channel == channels.end()) continue;
    exchanges.push_back({&requests[server], &(*channel)->servers[server], Status::Ok()});
  }
  FanOutOptions fan_out;
  fan_out.deadline = Now() + kGoodbyeMax;
  FanOut(exchanges, fan_out);
}

void Client::Close() {
  if (impl_->is_closed.exchange(true)) return;
  auto channels = impl_->Current()->pool.Close();
  impl_->EndOwnStreams(channels);
}

}  // namespace ps::client
