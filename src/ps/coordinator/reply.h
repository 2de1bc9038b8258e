#pragma once

#include <cstdint>
#include <string>

#include "ps/base/status.h"
#include "ps/net/listener.h"

namespace ps::coordinator {

// Answers a control request: JSON text, or an error.
void SendReply(const net::ConnectionPtr& connection, std::uint64_t request_id,
               const Result<std::string>& answer);

}  // namespace ps::coordinator
