#include "ps/coordinator/coordinator.h"

#include <pthread.h>

#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <cstring>
#include <thread>
#include <utility>

#include "ps/base/duration.h"
#include "ps/base/limits.h"
#include "ps/coordinator/definitions.h"
#include "ps/coordinator/requests.h"
#include "ps/coordinator/roster.h"
#include "ps/coordinator/task_queue.h"
#include "ps/net/listener.h"
#include "ps/sharding/json_fields.h"
#include "ps/wire/handshake.h"

namespace ps::coordinator {
namespace {

using sharding::ClusterDefinition;
using sharding::Json;

// Changes that clients asked for and that wait for their turn.
constexpr std::size_t kTasksWaitingMax = 1'024;

// The first definition, checked as one that came over the wire is.
Result<Definitions::Ptr> FirstDefinition(const CoordinatorOptions& options) {
  if (options.server_count < 1 || options.server_count > limits::kServersMax) {
    return Status(StatusCode::kConfiguration,
                  "server_count is " + std::to_string(options.server_count) + ", allowed is 1 to " +
                      std::to_string(limits::kServersMax));
  }
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
  if (options.weight_replicas < 1 || options.weight_replicas > options.server_count) {
    return Status(StatusCode::kConfiguration,
                  "weight_replicas is " + std::to_string(options.weight_replicas) +
                      ", allowed is 1 to server_count = " + std::to_string(options.server_count));
  }
  definition.weight_copies = {options.server_count, options.weight_replicas, {}};
  PS_ASSIGN_OR_RETURN(definition, ClusterDefinition::FromJson(definition.ToJson()));
  return std::make_shared<const ClusterDefinition>(std::move(definition));
}

}  // namespace

struct Coordinator::Impl {
  Impl(CoordinatorOptions the_options, Definitions::Ptr first)
      : options(std::move(the_options)),
        roster(options.server_count, Seconds(options.driver_silence_seconds)),
        definitions(std::move(first),
                    {options.secret, net::FingerprintOf(options.tls),
                     net::PeerSilenceMs(options.driver_silence_seconds)},
                    Seconds(options.timeout_seconds), &roster) {}
  ~Impl();

  Status Start();

  const CoordinatorOptions options;
  Roster roster;
  Definitions definitions;
  TaskQueue tasks{kTasksWaitingMax};
  asio::io_context context{1};
  Log log{"coordinator", options.log_level, &Clock::System()};
  Requests requests{&context, &roster, &definitions, &tasks, &log};
  std::unique_ptr<net::Listener> listener;
  std::thread io_thread;
};

Status Coordinator::Impl::Start() {
  PS_ASSIGN_OR_RETURN(wire::Nonce nonce, wire::RandomNonce());
  net::ListenerOptions listen;
  listen.host = options.bind_host;
  listen.port_base = options.port_base;
  listen.ports_tried_max = options.ports_tried_max;
  listen.secret = options.secret;
  listen.tls = options.tls;
  listen.peer_silence_ms = net::PeerSilenceMs(options.driver_silence_seconds);
  listen.identity.server_id = wire::kCoordinatorId;
  std::memcpy(&listen.identity.incarnation, nonce.data(), sizeof(listen.identity.incarnation));
  listen.payload_bytes_max = limits::kControlPayloadBytesMax;
  PS_ASSIGN_OR_RETURN(listener, net::Listener::Start(listen, {&context}, &requests));
  requests.Start();
  tasks.Start();
  io_thread = std::thread([this] {
    pthread_setname_np(pthread_self(), "ps-coordinator");
    context.run();
  });
  return Status::Ok();
}

Coordinator::Impl::~Impl() {
  roster.Close();
  definitions.Abort();
  tasks.Close();
  if (listener != nullptr) listener->Stop();
  context.stop();
  if (io_thread.joinable()) io_thread.join();
  // Closes every connection: the servers see their life lines end.
  requests.Clear();
  listener.reset();
}

Result<std::unique_ptr<Coordinator>> Coordinator::Start(CoordinatorOptions options) {
  if (options.advertised_host.empty()) {
    options.advertised_host = options.bind_host.empty() ? "127.0.0.1" : options.bind_host;
  }
  PS_ASSIGN_OR_RETURN(Definitions::Ptr first, FirstDefinition(options));
  std::unique_ptr<Coordinator> coordinator(
      new Coordinator(std::make_unique<Impl>(std::move(options), std::move(first))));
  PS_RETURN_IF_ERROR(coordinator->impl_->Start());
  return coordinator;
}

Coordinator::Coordinator(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Coordinator::~Coordinator() = default;

net::Endpoint Coordinator::endpoint() const {
  return {impl_->options.advertised_host, impl_->listener->port(), ""};
}

Status Coordinator::WaitRunning(SteadyTime deadline) { return impl_->roster.WaitRunning(deadline); }

std::vector<ServerRecord> Coordinator::Servers() const { return impl_->roster.Records(); }

std::shared_ptr<const ClusterDefinition> Coordinator::definition() const {
  return impl_->definitions.current();
}

Status Coordinator::CreateTable(const sharding::TableDefinition& table) {
  return impl_->definitions.CreateTable(table);
}

Result<std::vector<std::string>> Coordinator::DefineTensors(
    const std::vector<sharding::TensorDefinition>& tensors) {
  std::vector<sharding::TensorDefinition> checked;
  for (const sharding::TensorDefinition& tensor : tensors) {
    Json json{{"name", tensor.name}, {"shape", tensor.shape}};
    PS_ASSIGN_OR_RETURN(auto one, sharding::TensorFromJson(sharding::Dump(json)));
    checked.push_back(std::move(one));
  }
  return impl_->definitions.DefineTensors(checked, "");
}

Status Coordinator::StopServers(double grace_seconds, SteadyTime deadline) {
  impl_->roster.BeginStopping();
  asio::post(impl_->context,
             [this, grace = std::max(grace_seconds, 0.0)] { impl_->requests.Stop(grace); });
  return impl_->roster.WaitGone(deadline);
}

}  // namespace ps::coordinator
