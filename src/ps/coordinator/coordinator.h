#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/log.h"
#include "ps/base/status.h"
#include "ps/coordinator/server_record.h"
#include "ps/net/certificate.h"
#include "ps/net/endpoint.h"
#include "ps/sharding/cluster_definition.h"

namespace ps::coordinator {

struct CoordinatorOptions {
  std::string bind_host;
  std::string advertised_host;
  int port_base = 0;            // 0 = ephemeral; taken: the next free one
  int ports_tried_max = 1'000;  // 1: this one or none
  std::uint32_t server_count = 1;
  std::uint32_t virtual_nodes = 150;
  std::uint32_t partition_count = 4096;
  std::uint32_t weight_replicas = 1;  // servers that hold each dense tensor; 1 to server_count
  std::uint64_t seed = 0;
  sharding::OptimizerDefinition weight_optimizer;
  std::vector<sharding::TableDefinition> tables;  // "default" first
  std::string secret;
  // Of the whole job: shown to servers and clients, and expected of servers. Null: no TLS.
  std::shared_ptr<const net::TlsIdentity> tls;
  double timeout_seconds = 60.0;  // of its own calls to servers
  double driver_silence_seconds = 60.0;
  LogLevel log_level = LogLevel::kOff;  // of its lines on standard error: peers that it turns away
};

// Orders membership, table definitions, map epochs and barriers. Runs in the driver (or in server
// 0): one thread of its own for its sockets, one for what has to wait for servers, calls from any
// thread. Control requests on its listener:
//   {"op":"register",...} -> {}              of a server (server_record.h); the connection is then
//       its life line: heartbeats on it, its end = the server is lost. A control reply with request
//       id 0, {"stop":true,"grace_seconds"}, comes on it unasked: the server shall end
//   {"op":"heartbeat"} -> {}
//   {"op":"describe"} -> {"definition":{...}}
//   {"op":"create_table","table":{...}} -> {"definition":{...}}
//   {"op":"define_tensors","tensors":[{"name","shape"}],"creator":"..."} ->
//       {"definition":{...},"created":[names]}; definitions.h says what both mean
//   {"op":"adopt","tables":[...],"weights":bool,"tensors":[...],"weight_optimizer":{...}} ->
//       {"definition":{...}}, when a load is about to be switched to; definitions.h
//   {"op":"servers"} -> {"servers":[...]}
//   barriers: barrier_desk.h
// A new definition is on every server before the reply is sent; a server that refuses it (first one
// asked) leaves everything as it was. That a server was lost is a new definition as well
// (sharding/copies.h), which the others are told at once. After a server was lost, changes asked
// for over the listener are refused with kClosed (the caller's own with kConnection), naming it.
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
  Result<std::vector<std::string>> DefineTensors(
      const std::vector<sharding::TensorDefinition>& tensors);

  // Asks every server to end, ends the waits at barriers, and waits until the servers' connections
  // are gone or the deadline passes (kTimeout names those left).
  Status StopServers(double grace_seconds, SteadyTime deadline);

 private:
  struct Impl;
  explicit Coordinator(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ps::coordinator
