#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "ps/base/status.h"
#include "ps/base/types.h"
#include "ps/net/endpoint.h"
#include "ps/sharding/cluster_definition.h"
#include "ps/wire/codec.h"

namespace ps::client {

struct ServerAddress {
  ServerId server_id = 0;
  net::Endpoint endpoint;
  std::uint64_t incarnation = 0;
};

struct ClientOptions {
  std::vector<ServerAddress> servers;  // by id, 0..n-1
  net::Endpoint coordinator;
  std::string secret;
  std::string tls_fingerprint;      // net::CertificateFingerprint of all of them; empty: no TLS
  double timeout_seconds = 60.0;    // deadline of a call, retries and reconnects included
  std::size_t batch_size = 10'000;  // keys in one frame
  std::size_t message_bytes_max = 104'857'600;
  net::Transport transport = net::Transport::kAuto;
  wire::Compression compression = wire::Compression::kLz4;  // TCP only, where it pays
  // How long a peer may refuse connections before a call gives up on it: a process that is not
  // there does not come back as the one that was meant.
  double refused_give_up_seconds = 5.0;
  double peer_silence_seconds = 60.0;  // a host that is not heard at all for so long is given up
  std::size_t channels_max = 16;       // calls under way at once; further ones wait
  // Asked a few times a second by the thread that waits; true ends its call with kClosed. May be
  // empty.
  std::function<bool()> is_interrupted;
};

// A dense tensor as it was pulled; immutable, shared by all who got it unchanged.
struct TensorValue {
  std::size_t floats = 0;
  std::unique_ptr<float[]> values;
  std::vector<std::uint64_t> versions;  // by chunk
};

struct RowsPull {
  TableId table = 0;
  std::span<const Key> keys;  // may repeat
  float* out = nullptr;       // keys.size() * dim floats, input order
  bool create = true;
};
struct TensorPull {
  TensorId tensor = 0;
  float* out = nullptr;  // all its floats; may be null
  // Set on success unless null: the value without a copy. Chunks that have not changed since this
  // client pulled them last are not sent again; when none has, it is the same object as then.
  std::shared_ptr<const TensorValue>* value = nullptr;
  // A tensor that is defined and has no values yet (somebody is about to give it some) is null in
  // `value`, and `out` unspecified; without it that is NotFound.
  bool if_present = false;
};
struct RowsPush {
  TableId table = 0;
  std::span<const Key> keys;  // repeated keys are summed before they are sent
  const float* grads = nullptr;
};
struct TensorPush {
  TensorId tensor = 0;
  std::span<const float> values;  // gradient, or new values when `assign`
  bool assign = false;
  bool only_if_absent = false;  // with assign: the first one to assign wins, chunk by chunk
};
struct PushOptions {
  std::uint64_t stream = 0;  // 0: a stream of the client's own and its next number
  std::uint64_t sequence = 0;
  float rate_scale = 1.0f;
};

struct ClientStats {
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  std::uint64_t retries = 0;
};

// A client of one cluster. Thread-safe: each call takes a channel (one connection per server) of
// its own for its time, the same one again for the same thread where it can, so that a thread's
// calls stay in order. The calling thread does the socket's work itself; there is no thread behind.
// A broken connection is made anew and the request repeated with backoff inside the call's
// deadline: a push under the same (stream, sequence), which each server applies once. After fork()
// the child's calls make connections of their own.
class Client {
 public:
  // Connects to the first server that answers and learns the cluster's definition.
  static Result<std::unique_ptr<Client>> Connect(ClientOptions options);
  ~Client();
  Client(const Client&) = delete;

  // The definition as last seen; Refresh asks a server again (a name that is not known yet). Null
  // only in a forked child that could not take over its parent's and has not asked a server yet.
  std::shared_ptr<const sharding::ClusterDefinition> definition() const;
  Status Refresh();

  // One request per server for all of it; servers with nothing to do get none. On error the
  // contents of `out` are unspecified. Each server does its part wholly or not at all; the message
  // of an error names the servers that refused.
  Status Pull(std::span<const RowsPull> rows, std::span<const TensorPull> tensors);
  // Push: NaN and infinite values (also in sums of repeated keys), and tensors of another size, are
  // InvalidArgument, and no server does any of it.
  Status Push(std::span<const RowsPush> rows, std::span<const TensorPush> tensors,
              const PushOptions& options);

  // {"op": ...} to every server (replies in server order), to one, to the coordinator.
  // `once`: numbered in a stream of the client's own, so that a repeated request takes effect once.
  Result<std::vector<std::string>> ControlAll(const std::string& json, bool once);
  Result<std::string> ControlServer(ServerId server, const std::string& json, bool once);
  Result<std::string> ControlCoordinator(const std::string& json);
  // The same for a request that the coordinator answers when something has happened, or its own
  // time-out, `timeout_seconds`, has passed (a barrier). Close ends it with kClosed.
  Result<std::string> WaitAtCoordinator(const std::string& json, double timeout_seconds);

  ClientStats stats() const;
  // Waits for calls under way to end; later calls get kClosed. Idempotent.
  void Close();

 private:
  struct Impl;
  explicit Client(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ps::client
