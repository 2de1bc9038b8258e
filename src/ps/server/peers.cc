#include "ps/server/peers.h"

#include <limits>

#include "ps/base/limits.h"
#include "ps/sharding/json_fields.h"

namespace ps::server {

Result<Peers> ParsePeers(const sharding::Json& request) {
  Peers peers;
  if (sharding::FindField(request, "servers") == nullptr) return peers;
  PS_ASSIGN_OR_RETURN(const sharding::Json* listed,
                      sharding::GetArray(request, "servers", limits::kServersMax));
  for (const sharding::Json& one : *listed) {
    PS_ASSIGN_OR_RETURN(ServerId id,
                        sharding::GetUnsigned(one, "server_id", limits::kServersMax - 1));
    Peer& peer = peers[id];
    PS_ASSIGN_OR_RETURN(peer.endpoint.host, sharding::GetString(one, "host"));
    PS_ASSIGN_OR_RETURN(peer.endpoint.port, sharding::GetUnsigned(one, "port", 65'535));
    PS_ASSIGN_OR_RETURN(peer.endpoint.unix_path, sharding::GetString(one, "unix_path"));
    PS_ASSIGN_OR_RETURN(peer.incarnation, sharding::GetUnsigned(one, "incarnation"));
  }
  return peers;
}

}  // namespace ps::server
