#pragma once

#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>

#include "ps/base/log.h"
#include "ps/coordinator/barrier_desk.h"
#include "ps/coordinator/definitions.h"
#include "ps/coordinator/roster.h"
#include "ps/coordinator/task_queue.h"
#include "ps/net/listener.h"
#include "ps/sharding/json.h"

namespace ps::coordinator {

// What arrives at the coordinator's listener (coordinator.h lists it). Everything on the io thread;
// what has to wait for servers is left to the task queue.
class Requests final : public net::FrameHandler {
 public:
  Requests(asio::io_context* context, Roster* roster, Definitions* definitions, TaskQueue* tasks,
           Log* log)
      : roster_(roster),
        definitions_(definitions),
        tasks_(tasks),
        log_(log),
        silence_timer_(*context),
        barriers_(context) {}

  // Before the context runs.
  void Start() { CheckSilence(); }
  // Tells every server to end, and ends the waits at barriers.
  void Stop(double grace_seconds);
  // Lets go of all connections; when the context does not run any more.
  void Clear();

  void OnFrame(const net::ConnectionPtr& connection, net::Frame frame) override;
  void OnClose(const net::ConnectionPtr& connection, const Status& why) override;
  void OnRefused(const std::string& peer, const Status& why) override;

 private:
  using Work = std::function<Result<std::string>()>;

  void Serve(const net::ConnectionPtr& connection, std::uint64_t request_id,
             const std::string& text);
  // Tells the peer and the log, and closes the connection.
  void EndWith(const net::ConnectionPtr& connection, std::uint64_t request_id, const Status& why);
  Result<std::string> Register(const net::ConnectionPtr& connection, const sharding::Json& json);
  Result<std::string> Heartbeat(const net::ConnectionPtr& connection);
  Result<std::string> CreateTable(const sharding::Json& json);
  Result<std::string> DefineTensors(const sharding::Json& json);
  Result<std::string> Adopt(const sharding::Json& json);
  void ServeLater(const net::ConnectionPtr& connection, std::uint64_t request_id, Work work);
  void CheckSilence();
  void DeclareLost();
  std::string DefinitionField() const;
  std::string StopNotice() const;

  Roster* const roster_;
  Definitions* const definitions_;
  TaskQueue* const tasks_;
  Log* const log_;
  asio::steady_timer silence_timer_;
  BarrierDesk barriers_;
  double stop_grace_seconds_ = 0.0;
  std::unordered_map<std::uint64_t, net::ConnectionPtr> lines_;  // of servers
  std::unordered_map<std::uint64_t, std::string> partial_;       // requests of several frames
};

}  // namespace ps::coordinator
