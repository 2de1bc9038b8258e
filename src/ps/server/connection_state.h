#pragma once

#include <deque>

#include "ps/server/request.h"
#include "ps/server/request_assembler.h"

namespace ps::server {

// What the server knows of one connection. The connection's thread only.
struct ConnectionState {
  explicit ConnectionState(Core* core) : assembler(core) {}

  RequestAssembler assembler;
  bool broken = false;  // the peer left the protocol; further frames are dropped
  // A request of this connection has not been handed to all its shards yet (it counts rows first):
  // those behind it wait here, so that every shard serves the connection in order.
  bool held = false;
  std::deque<RequestPtr> waiting;
};

}  // namespace ps::server
