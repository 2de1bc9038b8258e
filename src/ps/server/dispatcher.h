#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "ps/net/listener.h"
#include "ps/server/connection_state.h"
#include "ps/server/control.h"
#include "ps/server/core.h"

namespace ps::server {

// Takes the frames of all connections, each on its own thread, and hands whole requests to their
// handlers in the order in which they came on their connection.
class Dispatcher final : public net::FrameHandler {
 public:
  Dispatcher(Core* core, Control* control)
      : core_(core), control_(control), connections_(core->shards.size()) {}

  void OnFrame(const net::ConnectionPtr& connection, net::Frame frame) override;
  void OnClose(const net::ConnectionPtr& connection, const Status& why) override;
  void OnRefused(const std::string& peer, const Status& why) override;

 private:
  using StatePtr = std::shared_ptr<ConnectionState>;

  StatePtr StateOf(const net::ConnectionPtr& connection);
  void Enqueue(const StatePtr& state, RequestPtr request);
  // True when the connection's next request may go on.
  bool Serve(const StatePtr& state, const RequestPtr& request);
  void Released(const StatePtr& state);
  void LogBadFrame(const net::ConnectionPtr& connection, const Status& why);

  Core* const core_;
  Control* const control_;
  // By context, each touched by its own thread only.
  std::vector<std::unordered_map<std::uint64_t, StatePtr>> connections_;
};

}  // namespace ps::server
