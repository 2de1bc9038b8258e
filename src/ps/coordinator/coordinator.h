#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/net/endpoint.h"
#include "ps/sharding/cluster_definition.h"

namespace ps::coordinator {

struct CoordinatorOptions {
  std::string bind_host;
  std::string advertised_host;
  int port_base = 0;
  std::uint32_t server_count = 1;
  std::uint32_t virtual_nodes = 150;
  std::uint32_t partition_count = 4096;
  std::uint64_t seed = 0;
  sharding::OptimizerDefinition weight_optimizer;
  std::vector<sharding::TableDefinition> tables;  // "default" first
  std::string secret;
  double timeout_seconds = 60.0;  // of its own calls to servers
  double driver_silence_seconds = 60.0;
};

enum class ServerState { kStarting, kRunning, kLost, kStopped };

struct ServerRecord {
  std::uint32_t server_id = 0;
  ServerState state = ServerState::kStarting;
  net::Endpoint endpoint;
  std::uint64_t incarnation = 0;
  std::int64_t pid = 0;
};

// [{"server_id","state":"starting|running|lost|stopped","host","port","unix_path","incarnation","pid"}]
std::string ServersToJson(const std::vector<ServerRecord>& servers);

// Orders membership, table definitions, map epochs (and barriers). Runs in the driver: one thread
// of its own for its sockets, calls from any thread. Control requests on its listener:
//   {"op":"register","server_id","host","port","unix_path","incarnation","pid"} -> {}   (from
//   servers; this connection
//        is then the server's life line: heartbeats on it, its end = the server is lost)
//   {"op":"heartbeat"}                       -> {"stop": bool, "grace_seconds"}
//   {"op":"describe"}                        -> {"definition":{...}}
//   {"op":"create_table","table":{...}}      -> {"definition":{...}}   same definition again:
//   nothing; another: error
//   {"op":"define_tensors","tensors":[{"name","shape"}]} -> {"definition":{...},"created":[names]}
//   another shape: error
//   {"op":"servers"}                         -> {"servers":[...]}
// A new definition is on every server before the reply is sent; a server that refuses it (first one
// asked) leaves everything as it was. After a server was lost, changes asked for over the listener
// are refused with kClosed (the caller's own with kConnection), naming it.
class Coordinator {
 public:
  static Result<std::unique_ptr<Coordinator>> Start(CoordinatorOptions options);
  ~Coordinator();
  Coordinator(const Coordinator&) = delete;

  net::Endpoint endpoint() const;

  // Until all servers have registered and hold the definition (then they serve). kTimeout names the
  // servers that are missing; another error at once when one was lost or refused the definition.
  Status WaitRunning(SteadyTime deadline);
  std::vector<ServerRecord> Servers() const;
  std::shared_ptr<const sharding::ClusterDefinition> definition() const;

  // The same operations for callers in this process.
  Status CreateTable(const sharding::TableDefinition& table);
  Result<std::vector<std::string>> DefineTensors(std::vector<sharding::TensorDefinition> tensors);

  // Asks every server to end and waits until their connections are gone or the deadline passes
  // (kTimeout names those left).
  Status StopServers(double grace_seconds, SteadyTime deadline);

 private:
  struct Impl;
  explicit Coordinator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ps::coordinator
