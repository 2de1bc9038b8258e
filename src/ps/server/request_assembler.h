#pragma once

#include "ps/base/status.h"
#include "ps/net/listener.h"
#include "ps/server/request.h"

namespace ps::server {

// Puts the frames of one connection together into requests. Used by the connection's thread.
//
// Bytes are taken from the server's InFlight as frames arrive. A request that does not fit is
// dropped frame by frame and answered with its last one: ResourceExhausted when it could never fit,
// else a kConnection error ("busy"), which clients retry with backoff inside their deadline.
class RequestAssembler {
 public:
  explicit RequestAssembler(Core* core) : core_(core) {}

  // The whole request when `frame` was its last one and it fitted; null otherwise. An error: the
  // peer does not keep to the protocol, the connection must be closed.
  Result<RequestPtr> Add(const net::ConnectionPtr& connection, net::Frame frame);

 private:
  Status CheckFrame(const wire::FrameHeader& header) const;
  void Take(net::Frame frame);
  void PlanOn();
  Status Refusal(std::size_t bytes) const;

  Core* const core_;
  RequestPtr request_;
  Status refusal_;  // not ok: frames of request_ are dropped
};

}  // namespace ps::server
