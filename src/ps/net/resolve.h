#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/net/socket.h"

namespace ps::net {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t bytes = 0;

  int family() const { return storage.ss_family; }
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// The TCP addresses of a host, in the system's order of preference; never empty when ok. Addresses
// in digits are read at once. Names are looked up on a thread of their own, because the system's
// resolver knows no deadline: at the deadline the call returns and leaves that thread to end by
// itself (at most 64 such threads, then ResourceExhausted). ConnectionError when the name has no
// address; kClosed when interrupted.
Result<std::vector<SocketAddress>> Resolve(const std::string& host, int port, SteadyTime deadline,
                                           const IsInterrupted& is_interrupted = {});

// Address of a socket file. InvalidArgument when the path is empty or longer than 107 bytes.
Result<SocketAddress> UnixAddress(const std::string& path);

}  // namespace ps::net
