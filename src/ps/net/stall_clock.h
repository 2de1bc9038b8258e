#pragma once

#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <memory>

#include "ps/net/listener_core.h"

namespace ps::net {

// Has the connections of one context look at even intervals whether their peers still move bytes.
// All of it on the context's thread.
class StallClock : public std::enable_shared_from_this<StallClock> {
 public:
  StallClock(std::shared_ptr<ListenerCore> core, asio::io_context& context)
      : core_(std::move(core)), context_(context), timer_(context) {}

  asio::io_context& context() { return context_; }
  void Start();
  void Stop() { timer_.cancel(); }

 private:
  void Check();

  const std::shared_ptr<ListenerCore> core_;
  asio::io_context& context_;
  asio::steady_timer timer_;
};

}  // namespace ps::net
