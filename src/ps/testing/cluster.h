#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/coordinator/coordinator.h"
#include "ps/server/server.h"
#include "ps/testing/raw_client.h"

namespace ps::testing {

struct ClusterOptions {
  std::uint32_t servers = 1;
  int shard_threads = 1;
  std::uint64_t rows_max = 0;
  std::uint64_t seed = 7;
  std::uint32_t partition_count = 64;
  std::uint32_t weight_replicas = 1;
  bool unix_sockets = false;
  std::size_t message_bytes_max = 4u << 20;
  std::size_t requests_in_flight_bytes_max = 64u << 20;
  double driver_silence_seconds = 60.0;
  wire::Compression compression = wire::Compression::kNone;
  sharding::OptimizerDefinition weight_optimizer{"sgd", {{"learning_rate", 1.0}}};
  std::vector<sharding::TableDefinition> tables;  // empty: Table("default", 4)
  const Clock* clock = &Clock::System();
};

// SGD without momentum at rate 1, values from N(0, 0.1^2): a push of g subtracts g.
sharding::TableDefinition Table(const std::string& name, std::uint32_t dim);

// A coordinator and its servers in this process, over loopback or Unix sockets, running.
class Cluster {
 public:
  static Result<std::unique_ptr<Cluster>> Start(const ClusterOptions& options);
  ~Cluster();

  static const std::string& Secret();
  coordinator::Coordinator& coordinator() { return *coordinator_; }
  server::Server& server(std::size_t i) { return *servers_[i]; }
  std::size_t server_count() const { return servers_.size(); }
  net::Endpoint endpoint(std::size_t i) const;

  // A connection to a server; fails the test program when there is none.
  std::unique_ptr<RawClient> Connect(std::size_t server = 0) const;
  std::unique_ptr<RawClient> ConnectCoordinator() const;

  void CloseCoordinator() { coordinator_.reset(); }
  void CloseServer(std::size_t i) { servers_[i].reset(); }

 private:
  ClusterOptions options_;
  std::string unix_dir_;
  std::unique_ptr<coordinator::Coordinator> coordinator_;
  std::vector<std::unique_ptr<server::Server>> servers_;
};

}  // namespace ps::testing
