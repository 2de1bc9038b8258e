#include "ps/coordinator/server_record.h"

#include "ps/base/limits.h"
#include "ps/sharding/json_fields.h"

namespace ps::coordinator {
namespace {

using sharding::Json;

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
                    {"pid", server.pid},
                    {"metrics_port", server.metrics_port}});
  }
  return sharding::Dump(list);
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
  PS_ASSIGN_OR_RETURN(record.metrics_port, sharding::GetUnsigned(json, "metrics_port", 65'535));
  return record;
}

}  // namespace ps::coordinator
