#include "ps/net/stall_clock.h"

#include <chrono>

#include "ps/net/server_connection.h"

namespace ps::net {

void StallClock::Start() {
  std::chrono::milliseconds limit(core_->options.stall_timeout_ms);
  timer_.expires_after(limit / Connection::kStallChecks);
  timer_.async_wait([self = shared_from_this()](const asio::error_code& error) {
    if (error || self->core_->stopped()) return;
    self->Check();
    self->Start();
  });
}

void StallClock::Check() {
  for (const auto& connection : core_->Open()) {
    if (&connection->context() == &context_) connection->CheckStalled();
  }
}

}  // namespace ps::net
