#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/net/client_connection.h"
#include "ps/net/endpoint.h"

namespace ps::server {

// A server's life line to the coordinator: registers, then says every second that it is there, also
// while the server is ending, and hears when it shall stop. Own thread, which does nothing else.
class CoordinatorLink {
 public:
  struct Options {
    net::Endpoint coordinator;
    std::string secret;
    std::string tls_fingerprint;    // of the coordinator's certificate; empty: no TLS
    std::string registration_json;  // {"op":"register",...}
    Duration driver_silence = std::chrono::seconds(60);
    Duration registration_timeout = std::chrono::seconds(30);
    Duration heartbeat_interval = std::chrono::seconds(1);
  };
  // Called from the link's thread: when the coordinator asks for the end, and when the line has
  // ended by itself.
  using OnEnd = std::function<void(const std::string& reason, Duration grace)>;

  // Connects and registers, retrying until the time-out when the coordinator cannot be reached.
  static Result<std::unique_ptr<CoordinatorLink>> Start(Options options, OnEnd on_end);
  ~CoordinatorLink();  // stops; not from the link's thread
  CoordinatorLink(const CoordinatorLink&) = delete;

 private:
  CoordinatorLink(Options options, OnEnd on_end) noexcept
      : options_(std::move(options)), on_end_(std::move(on_end)) {}
  Status Register();
  Status TryRegister(SteadyTime deadline);
  void Run();
  // Until the next beat is due; what comes unasked is heard. False when the link is being closed.
  Result<bool> WaitForNextBeat();
  Status Beat();
  void HearNotice(const net::ClientConnection::OwnedFrame& frame);

  const Options options_;
  const OnEnd on_end_;
  std::unique_ptr<net::ClientConnection> connection_;
  SteadyTime heard_;
  int wake_fd_ = -1;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace ps::server
