#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/coordinator/server_record.h"
#include "ps/net/client_connection.h"

namespace ps::coordinator {

// What servers are known by, and when one is given up (net::ListenerOptions).
struct ServerKey {
  std::string secret;
  std::string tls_fingerprint;  // of their certificate; empty: no TLS
  int peer_silence_ms = net::kPeerSilenceMs;
};

// Control calls of the coordinator to its servers, over one kept connection each. Calls come one at
// a time (the owner's mutex); Abort from any thread, and a call under way then ends within 2 s.
class ServerCalls {
 public:
  ServerCalls(std::uint32_t server_count, ServerKey key)
      : key_(std::move(key)), connections_(server_count) {}

  // Connects where needed and repeats the call with backoff until it is answered, the deadline
  // passes, or `given_up` says that the server is not there any more. Messages name the server.
  Result<std::string> Call(const ServerRecord& server, const std::string& json, SteadyTime deadline,
                           const std::function<bool()>& given_up);
  // Ends a call under way, and lets none begin.
  void Abort();

 private:
  Result<std::string> TryOnce(const ServerRecord& server, const std::string& json,
                              SteadyTime deadline);
  void Keep(std::uint32_t id, std::unique_ptr<net::ClientConnection> connection);

  const ServerKey key_;
  std::atomic<bool> aborted_{false};
  std::mutex mutex_;  // the slots; the connections are the caller's
  std::vector<std::unique_ptr<net::ClientConnection>> connections_;
};

}  // namespace ps::coordinator
