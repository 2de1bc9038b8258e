#pragma once

#include <string>

#include "ps/base/status.h"

namespace ps::net {

inline constexpr int kPortMax = 65'535;

// Where a server listens. The Unix socket is used when its path exists on this host; the handshake
// then proves that it is the server meant.
struct Endpoint {
  std::string host;  // name or address, IPv4 or IPv6
  int port = 0;
  std::string unix_path;  // empty: none

  std::string ToString() const;  // "host:port"
  bool operator==(const Endpoint&) const = default;
};

// "host:port", "[v6]:port". InvalidArgument names the text.
Result<Endpoint> ParseEndpoint(const std::string& text);

enum class Transport { kAuto, kTcp, kUnix };
Result<Transport> ParseTransport(const std::string& name);

}  // namespace ps::net
