#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ps/base/status.h"
#include "ps/net/endpoint.h"
#include "ps/sharding/json.h"

namespace ps::coordinator {

enum class ServerState { kStarting, kRunning, kLost, kStopped };

struct ServerRecord {
  std::uint32_t server_id = 0;
  ServerState state = ServerState::kStarting;
  net::Endpoint endpoint;
  std::uint64_t incarnation = 0;
  std::int64_t pid = 0;
  int metrics_port = 0;  // of its Prometheus endpoint; 0: none
};

// [{"server_id","state":"starting|running|lost|stopped","host","port","unix_path","incarnation","pid","metrics_port"}]
std::string ServersToJson(const std::vector<ServerRecord>& servers);

// From a request {"op":"register","server_id","host","port","unix_path","incarnation","pid",
// "metrics_port"}.
Result<ServerRecord> ParseRegistration(const sharding::Json& json);

}  // namespace ps::coordinator
