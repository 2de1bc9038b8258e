#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/client/client.h"
#include "ps/client/fan_out.h"

namespace ps::client {

// Whom a link leads to: a server, or the coordinator. The address must outlive it.
struct Peer {
  const ServerAddress* address = nullptr;
  bool is_coordinator = false;

  std::string Name() const;  // "server 2 (host:port)"
  // The message with the peer's name in front, unless it stands there already.
  std::string Named(const std::string& message) const;
};

// One request, the link it goes over and the peer at its end.
struct Task {
  Peer peer;
  Link* link = nullptr;
  ServerRequest* request = nullptr;
};

struct CallOptions {
  SteadyTime deadline;
  const ClientOptions* client = nullptr;
  // Asked before a repetition; true: repeating makes no sense, what is undone fails as it last did.
  std::function<bool()> is_moot;
};

// Brings every task to its end: connects where there is no connection, fans out, and repeats what a
// broken connection left undone, with growing, jittered pauses, until the deadline. Never retried:
// a refusal, a secret that does not fit, a peer with another incarnation, refused connections for
// refused_give_up_seconds. The status names every peer that failed. `stats` gets what this call
// added.
Status RunTasks(std::span<Task> tasks, const CallOptions& options, ClientStats* stats);

// A connection over `link` if it has none. Errors as of net::ClientConnection::Connect; an
// incarnation that is not the expected one is kConnection.
Status EnsureConnected(const Peer& peer, const CallOptions& options, Link* link, bool* is_final);

}  // namespace ps::client
