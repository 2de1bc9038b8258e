#pragma once

#include <cstdint>
#include <map>

#include "ps/base/status.h"
#include "ps/base/types.h"
#include "ps/net/endpoint.h"
#include "ps/sharding/json.h"

namespace ps::server {

// Where another server of the cluster is, and which life of it is meant.
struct Peer {
  net::Endpoint endpoint;
  std::uint64_t incarnation = 0;

  bool operator==(const Peer&) const = default;
};
using Peers = std::map<ServerId, Peer>;

// From the field "servers" of a control request, as the coordinator lists them
// (coordinator/server_record.h). Empty when there is none.
Result<Peers> ParsePeers(const sharding::Json& request);

}  // namespace ps::server
