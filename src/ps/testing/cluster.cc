#include "ps/testing/cluster.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>

namespace ps::testing {
namespace {

SteadyTime In(double seconds) {
  return std::chrono::steady_clock::now() +
         std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

std::unique_ptr<RawClient> Must(Result<std::unique_ptr<RawClient>> client) {
  if (client.ok()) return std::move(client).value();
  std::fprintf(stderr, "cannot connect: %s\n", client.status().ToString().c_str());
  std::abort();
}

}  // namespace

sharding::TableDefinition Table(const std::string& name, std::uint32_t dim) {
  sharding::TableDefinition table;
  table.name = name;
  table.dim = dim;
  table.optimizer = {"sgd", {{"learning_rate", 1.0}, {"momentum", 0.0}}};
  table.init = "normal";
  table.init_scale = 0.1;
  return table;
}

const std::string& Cluster::Secret() {
  static const std::string secret = "a secret of at least sixteen bytes";
  return secret;
}

Result<std::unique_ptr<Cluster>> Cluster::Start(const ClusterOptions& options) {
  auto cluster = std::make_unique<Cluster>();
  cluster->options_ = options;
  if (options.unix_sockets) {
    std::string pattern = (std::filesystem::temp_directory_path() / "ps-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) return Internal("no temporary directory");
    cluster->unix_dir_ = pattern;
  }
  coordinator::CoordinatorOptions coordination;
  coordination.bind_host = "127.0.0.1";
  coordination.server_count = options.servers;
  coordination.partition_count = options.partition_count;
  coordination.weight_replicas = options.weight_replicas;
  coordination.seed = options.seed;
  coordination.weight_optimizer = options.weight_optimizer;
  coordination.tables = options.tables;
  if (coordination.tables.empty()) coordination.tables.push_back(Table("default", 4));
  coordination.secret = Secret();
  coordination.timeout_seconds = 20.0;
  PS_ASSIGN_OR_RETURN(cluster->coordinator_, coordinator::Coordinator::Start(coordination));
  for (std::uint32_t id = 0; id < options.servers; ++id) {
    server::ServerOptions serving;
    serving.server_id = id;
    serving.bind_host = "127.0.0.1";
    serving.unix_dir = cluster->unix_dir_;
    serving.shard_threads = options.shard_threads;
    serving.rows_max = options.rows_max;
    serving.message_bytes_max = options.message_bytes_max;
    serving.requests_in_flight_bytes_max = options.requests_in_flight_bytes_max;
    serving.compression = options.compression;
    serving.coordinator = cluster->coordinator_->endpoint();
    serving.secret = Secret();
    serving.driver_silence_seconds = options.driver_silence_seconds;
    PS_ASSIGN_OR_RETURN(auto server, server::Server::Start(serving, options.clock));
    cluster->servers_.push_back(std::move(server));
  }
  PS_RETURN_IF_ERROR(cluster->coordinator_->WaitRunning(In(30.0)));
  return cluster;
}

Cluster::~Cluster() {
  servers_.clear();
  coordinator_.reset();
  if (unix_dir_.empty()) return;
  std::error_code ignored;
  std::filesystem::remove_all(unix_dir_, ignored);
}

net::Endpoint Cluster::endpoint(std::size_t i) const {
  return {"127.0.0.1", servers_[i]->port(), servers_[i]->unix_path()};
}

std::unique_ptr<RawClient> Cluster::Connect(std::size_t server) const {
  return Must(
      RawClient::Connect(endpoint(server), Secret(),
                         options_.unix_sockets ? net::Transport::kUnix : net::Transport::kTcp,
                         static_cast<std::uint32_t>(server)));
}

std::unique_ptr<RawClient> Cluster::ConnectCoordinator() const {
  return Must(RawClient::Connect(coordinator_->endpoint(), Secret(), net::Transport::kTcp,
                                 wire::kCoordinatorId));
}

}  // namespace ps::testing
