#include "ps/server/server.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "ps/base/duration.h"
#include "ps/net/descriptors.h"
#include "ps/server/checkpoint_jobs.h"
#include "ps/server/checkpoint_loader.h"
#include "ps/server/checkpoint_snapshot.h"
#include "ps/server/control.h"
#include "ps/server/coordinator_link.h"
#include "ps/server/core.h"
#include "ps/server/definer.h"
#include "ps/server/dispatcher.h"
#include "ps/server/replicator.h"
#include "ps/server/stats.h"
#include "ps/server/sweeps.h"
#include "ps/sharding/json_fields.h"
#include "ps/wire/handshake.h"
#include "ps/wire/messages.h"

namespace ps::server {
namespace {

constexpr int kShardThreadsMax = 256;
// What a server and its host process open beside connections: listeners, strangers, files.
constexpr std::size_t kOtherDescriptors = 512;
// What other servers send of a chunk of a dense tensor, its optimizer state included.
constexpr std::size_t kCopyPayloadBytesMax =
    wire::kChunkStateFloatsMax * sizeof(float) + 3 * wire::kSectionHeadBytes;
constexpr Duration kDrainPoll = std::chrono::milliseconds(2);
// How long the end waits for shard threads to take notice (they may be amid a step).
constexpr Duration kBarrierTimeout = std::chrono::seconds(5);

// What the allocator keeps for the next payloads instead of giving it back to the system at once,
// per arena. Fresh memory costs a page fault each 4 KiB: without this, two thirds of a server's
// time for replies of 13 MB (0.25 instead of 0.07 CPU seconds per million rows of 64 floats).
constexpr int kTrimBytes = 256 << 20;
constexpr int kMmapBytes = 32 << 20;  // glibc's own largest value

void KeepMemoryOfPayloads() {
#ifdef __GLIBC__
  mallopt(M_TRIM_THRESHOLD, kTrimBytes);
  mallopt(M_MMAP_THRESHOLD, kMmapBytes);
#endif
}

Status CheckOptions(const ServerOptions& options) {
  auto wrong = [](const std::string& field, const std::string& value, const std::string& allowed) {
    return Status(StatusCode::kConfiguration, field + " is " + value + ", allowed is " + allowed);
  };
  if (options.server_id >= limits::kServersMax) {
    return wrong("server_id", std::to_string(options.server_id),
                 "0 to " + std::to_string(limits::kServersMax - 1));
  }
  if (options.shard_threads < 1 || options.shard_threads > kShardThreadsMax) {
    return wrong("shard_threads", std::to_string(options.shard_threads),
                 "1 to " + std::to_string(kShardThreadsMax));
  }
  if (!(options.driver_silence_seconds > 0.0)) {
    return wrong("driver_silence_seconds", std::to_string(options.driver_silence_seconds),
                 "more than 0");
  }
  if (options.requests_in_flight_bytes_max < PayloadBytesMax(options)) {
    return wrong("requests_in_flight_bytes_max",
                 std::to_string(options.requests_in_flight_bytes_max),
                 "at least one message, " + std::to_string(PayloadBytesMax(options)));
  }
  return Status::Ok();
}

Result<std::uint64_t> DrawIncarnation() {
  PS_ASSIGN_OR_RETURN(wire::Nonce nonce, wire::RandomNonce());
  std::uint64_t incarnation = 0;
  std::memcpy(&incarnation, nonce.data(), sizeof(incarnation));
  return incarnation == 0 ? 1 : incarnation;  // 0 means "any"
}

// Empty when the folder's name leaves no room: Unix socket paths end at 107 bytes.
std::string UnixPath(const ServerOptions& options, std::uint64_t incarnation) {
  if (options.unix_dir.empty()) return "";
  char name[48];
  std::snprintf(name, sizeof(name), "/ps-%u-%08x.sock", options.server_id,
                static_cast<unsigned>(incarnation >> 32));
  std::string path = options.unix_dir + name;
  return path.size() < sizeof(sockaddr_un::sun_path) ? path : "";
}

// As many as the limits allow, each of which takes a descriptor.
std::size_t ConnectionsMax(const Core& core) {
  constexpr std::size_t kWanted = limits::kConnectionsPerServerMax;
  std::size_t descriptors = net::RaiseDescriptorLimit(kWanted + kOtherDescriptors);
  if (descriptors >= kWanted + kOtherDescriptors) return kWanted;
  std::size_t room = descriptors > 2 * kOtherDescriptors
                         ? descriptors - kOtherDescriptors
                         : std::max<std::size_t>(descriptors / 2, 1);
  std::fprintf(
      stderr,
      "pyspark_ps: %s takes %zu connections instead of %zu: this process may have %zu open "
      "files and sockets (ulimit -n)\n",
      core.Name().c_str(), room, kWanted, descriptors);
  return room;
}

ServerOptions WithAdvertisedHost(ServerOptions options) {
  if (options.advertised_host.empty()) {
    options.advertised_host = options.bind_host.empty() ? "127.0.0.1" : options.bind_host;
  }
  return options;
}

}  // namespace

struct Server::Impl {
  Impl(ServerOptions options, const Clock* clock, std::uint64_t incarnation)
      : core(WithAdvertisedHost(std::move(options)), clock, incarnation) {}

  Status Start();
  void End(const std::string& why, Duration grace, bool may_hurry);
  void CloseWhenAsked();
  void Close();
  void WaitForRequests();
  bool Barrier();
  std::string RegistrationJson() const;

  Core core;
  Replicator replicator{&core};
  Definer definer{&core};
  Sweeps sweeps{&core};
  CheckpointJobs jobs;
  Snapshots snapshots{&core};
  Control control{&core, &definer, &sweeps, &jobs};
  std::unique_ptr<Dispatcher> dispatcher;
  std::unique_ptr<CoordinatorLink> link;
  std::string last_stats = "{}";

  std::mutex mutex;
  std::condition_variable changed;
  bool ending = false;
  bool ended = false;
  std::string reason;
  SteadyTime grace_end;
  std::thread closer;  // waits for the end, then does all of it
};

Status Server::Impl::Start() {
  PS_RETURN_IF_ERROR(CheckOptions(core.options));
  std::vector<asio::io_context*> contexts;
  for (int i = 0; i < core.options.shard_threads; ++i) {
    core.shards.push_back(std::make_unique<Shard>(i));
    contexts.push_back(&core.shards.back()->context());
  }
  dispatcher = std::make_unique<Dispatcher>(&core, &control);
  core.replicator = &replicator;
  core.end = [this](const std::string& why, Duration grace) { End(why, grace, false); };

  net::ListenerOptions listen;
  listen.host = core.options.bind_host;
  listen.port_base = core.options.port_base;
  listen.ports_tried_max = core.options.ports_tried_max;
  listen.unix_path = UnixPath(core.options, core.incarnation);
  listen.secret = core.options.secret;
  listen.tls = core.options.tls;
  listen.peer_silence_ms = net::PeerSilenceMs(core.options.driver_silence_seconds);
  listen.identity = {core.options.server_id, core.incarnation};
  listen.payload_bytes_max = std::max(PayloadBytesMax(core.options), kCopyPayloadBytesMax);
  listen.compression = core.options.compression;
  listen.connections_max = ConnectionsMax(core);
  PS_ASSIGN_OR_RETURN(core.listener, net::Listener::Start(listen, contexts, dispatcher.get()));
  for (auto& shard : core.shards) shard->Start();
  closer = std::thread([this] { CloseWhenAsked(); });

  if (core.options.coordinator.host.empty()) return Status::Ok();
  CoordinatorLink::Options line;
  line.coordinator = core.options.coordinator;
  line.secret = core.options.secret;
  line.tls_fingerprint = net::FingerprintOf(core.options.tls);
  line.registration_json = RegistrationJson();
  line.driver_silence = Seconds(core.options.driver_silence_seconds);
  // A driver that goes while the server ends need not be waited for any longer.
  Result<std::unique_ptr<CoordinatorLink>> started = CoordinatorLink::Start(
      std::move(line), [this](const std::string& why, Duration grace) { End(why, grace, true); });
  if (!started.ok()) return started.status();
  std::lock_guard lock(mutex);
  link = std::move(started).value();
  return Status::Ok();
}

std::string Server::Impl::RegistrationJson() const {
  return sharding::Dump({{"op", "register"},
                         {"server_id", core.options.server_id},
                         {"host", core.options.advertised_host},
                         {"port", core.listener->port()},
                         {"unix_path", core.listener->unix_path()},
                         {"incarnation", core.incarnation},
                         {"pid", static_cast<std::int64_t>(::getpid())},
                         {"metrics_port", core.options.metrics_port}});
}

// The first reason stays; `may_hurry` may shorten the grace of an end under way.
void Server::Impl::End(const std::string& why, Duration grace, bool may_hurry) {
  std::lock_guard lock(mutex);
  SteadyTime until = Now() + grace;
  if (!ending) {
    ending = true;
    reason = why;
    grace_end = until;
  } else if (may_hurry) {
    grace_end = std::min(grace_end, until);
  }
  changed.notify_all();
}

void Server::Impl::CloseWhenAsked() {
  pthread_setname_np(pthread_self(), "ps-closer");
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [this] { return ending; });
  }
  Close();
  std::lock_guard lock(mutex);
  ended = true;
  changed.notify_all();
}

void Server::Impl::Close() {
  core.closing.store(true, std::memory_order_release);
  WaitForRequests();
  Barrier();  // the answers of the last requests are on their connections now
  core.cut_short.store(true);
  replicator.Stop();
  jobs.Close();
  std::unique_ptr<CoordinatorLink> line;
  {
    std::lock_guard lock(mutex);
    line = std::move(link);
  }
  line.reset();
  core.listener->Stop();
  Barrier();
  for (auto& shard : core.shards) shard->StopAndJoin();
  std::size_t ran = 1;
  while (ran > 0) {
    ran = 0;
    for (auto& shard : core.shards) ran += shard->Drain();
  }
}

void Server::Impl::WaitForRequests() {
  std::unique_lock lock(mutex);
  while (core.in_flight.requests() > 0 && Now() < grace_end) {
    changed.wait_for(lock, kDrainPoll);
  }
}

// Waits until every shard has run what was posted so far, and reads the last statistics meanwhile.
bool Server::Impl::Barrier() {
  auto stats = std::make_shared<std::promise<std::string>>();
  std::future<std::string> read = stats->get_future();
  CollectStats(core, StatsDetail::kMetrics,
               [stats](std::string json) { stats->set_value(std::move(json)); });
  if (read.wait_for(kBarrierTimeout) != std::future_status::ready) return false;
  std::lock_guard lock(mutex);
  last_stats = read.get();
  return true;
}

Result<std::unique_ptr<Server>> Server::Start(ServerOptions options, const Clock* clock) {
  KeepMemoryOfPayloads();
  PS_ASSIGN_OR_RETURN(std::uint64_t incarnation, DrawIncarnation());
  std::unique_ptr<Server> server(
      new Server(std::make_unique<Impl>(std::move(options), clock, incarnation)));
  PS_RETURN_IF_ERROR(server->impl_->Start());
  return server;
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() {
  Stop(Duration::zero());
  if (impl_->closer.joinable()) impl_->closer.join();
  impl_->link.reset();  // there is one when the end came before Start had taken it in
}

int Server::port() const { return impl_->core.listener->port(); }
std::string Server::unix_path() const { return impl_->core.listener->unix_path(); }
std::uint64_t Server::incarnation() const { return impl_->core.incarnation; }

std::optional<std::string> Server::WaitEnded(Duration timeout) {
  std::unique_lock lock(impl_->mutex);
  if (!impl_->changed.wait_for(lock, timeout, [this] { return impl_->ended; })) {
    return std::nullopt;
  }
  return impl_->reason;
}

void Server::Stop(Duration grace) {
  if (!impl_->closer.joinable()) return;
  impl_->End("Stop was called", grace, /*may_hurry=*/true);
  std::unique_lock lock(impl_->mutex);
  impl_->changed.wait(lock, [this] { return impl_->ended; });
}

std::string Server::StatsJson() {
  auto stats = std::make_shared<std::promise<std::string>>();
  std::future<std::string> read = stats->get_future();
  if (!impl_->core.closing.load()) {
    CollectStats(impl_->core, StatsDetail::kMetrics,
                 [stats](std::string json) { stats->set_value(std::move(json)); });
    if (read.wait_for(kBarrierTimeout) == std::future_status::ready) return read.get();
  }
  std::lock_guard lock(impl_->mutex);
  return impl_->last_stats;
}

CheckpointJobs& Server::checkpoint_jobs() { return impl_->jobs; }
Snapshots& Server::snapshots() { return impl_->snapshots; }

Result<std::shared_ptr<CheckpointLoader>> Server::StartLoad(const std::string& plan_json) {
  return CheckpointLoader::Create(&impl_->core, plan_json);
}

Result<std::string> Server::DefinitionJson() {
  DefinitionPtr definition = impl_->core.definition();
  if (definition == nullptr) return NotDefined(impl_->core);
  return definition->cluster.ToJson();
}

}  // namespace ps::server
