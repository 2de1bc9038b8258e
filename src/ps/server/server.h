#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "ps/base/clock.h"
#include "ps/base/log.h"
#include "ps/base/status.h"
#include "ps/net/certificate.h"
#include "ps/net/endpoint.h"
#include "ps/wire/codec.h"

namespace ps::server {

class CheckpointJobs;
class CheckpointLoader;
class Snapshots;

struct ServerOptions {
  std::uint32_t server_id = 0;
  std::string bind_host;        // empty: all interfaces
  std::string advertised_host;  // what the coordinator tells clients
  int port_base = 0;            // 0 = ephemeral; taken: the next free one
  int ports_tried_max = 1'000;  // 1: this one or none
  std::string unix_dir;         // where the socket file goes; empty: none
  int shard_threads = 4;
  std::uint64_t rows_max = 10'000'000;  // all tables together; 0 = unlimited
  std::size_t message_bytes_max = 104'857'600;
  // Requests being assembled or served and their replies, over all connections; beside them one
  // larger request at a time, of up to 16 times as much (in_flight.h).
  std::size_t requests_in_flight_bytes_max = 1ull << 30;
  wire::Compression compression = wire::Compression::kNone;
  net::Endpoint coordinator;  // registers there, and ends when that connection ends
  std::string secret;
  // Of the whole job: shown to clients, and expected of the coordinator. Null: no TLS.
  std::shared_ptr<const net::TlsIdentity> tls;
  double driver_silence_seconds = 60.0;
  LogLevel log_level = LogLevel::kOff;
  int metrics_port = 0;  // of the endpoint that serves StatsJson, for the coordinator; 0: none
};

// One server of a cluster: shard threads that own partitions, a listener, a link to the
// coordinator.
//
// Requests (wire/frame.h): pulls and pushes as documented in messages.h, and kControl with
//   {"op":"describe"}                -> {"server_id","coordinator":"host:port","definition":{...}}
//   {"op":"define","definition":{},"servers":[...]} -> {}
//        newer versions add tables, tensors and lost servers; checked wholly first. "servers" says
//        where the others are (peers.h)
//   {"op":"init_tensors","tensors":[{"id","init":"zeros|ones|random|normal","scale"}]} -> {} (fresh
//   optimizer state)
//   {"op":"decay","method":"multiply","factor"} | {"op":"decay","method":"prune","min_count"} ->
//   {"pruned"}
//   {"op":"stats"}                   -> contract section 5, one server's record
//   {"op":"end_streams","streams":["<u64>", ...]} -> {}
//   {"op":"checkpoint_start"|"checkpoint_status"|"checkpoint_cancel","job",...}
//                                    -> checkpoint_jobs.h
//   {"op":"stop","grace_seconds"}    -> {}          answers, finishes what is under way, then ends
// A control request with stream != 0 in its header takes effect once per (stream, sequence), as a
// push.
class Server {
 public:
  // Listens, starts the threads, registers with the coordinator; ok = serving once defined.
  static Result<std::unique_ptr<Server>> Start(ServerOptions options,
                                               const Clock* clock = &Clock::System());
  ~Server();  // stops at once
  Server(const Server&) = delete;

  int port() const;
  std::string unix_path() const;
  std::uint64_t incarnation() const;

  // Blocks until the server has ended by itself (stop request, coordinator gone or silent), or
  // until the timeout. The reason, in plain English; empty optional on time-out.
  std::optional<std::string> WaitEnded(Duration timeout);
  // Ends: no new requests, those under way get `grace`, then all is closed. Idempotent,
  // thread-safe.
  void Stop(Duration grace);

  // The record of get_cluster_stats with the histograms of stats.h; waits for the shards. Once the
  // server has ended: as it was then.
  std::string StatsJson();

  // --- checkpoints: for the process around the server, which does the storage's work. What these
  // return ends before the server does.
  CheckpointJobs& checkpoint_jobs();
  Snapshots& snapshots();
  Result<std::shared_ptr<CheckpointLoader>> StartLoad(const std::string& plan_json);
  // The cluster's definition as JSON. A kConnection error before the first one came.
  Result<std::string> DefinitionJson();

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ps::server
