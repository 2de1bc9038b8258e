#include "ps/net/endpoint.h"

#include <charconv>

namespace ps::net {
namespace {

Status BadEndpoint(const std::string& text, const char* why) {
  return InvalidArgument("address '" + text + "': " + why +
                         "; write host:port or [IPv6 address]:port");
}

}  // namespace

std::string Endpoint::ToString() const {
  bool is_v6 = host.find(':') != std::string::npos;
  return (is_v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Endpoint> ParseEndpoint(const std::string& text) {
  std::size_t colon = text.rfind(':');
  if (colon == std::string::npos) return BadEndpoint(text, "there is no port");
  Endpoint endpoint;
  endpoint.host = text.substr(0, colon);
  if (endpoint.host.starts_with('[')) {
    if (!endpoint.host.ends_with(']')) return BadEndpoint(text, "the bracket is not closed");
    endpoint.host = endpoint.host.substr(1, endpoint.host.size() - 2);
  } else if (endpoint.host.find(':') != std::string::npos) {
    return BadEndpoint(text, "an IPv6 address needs brackets");
  }
  if (endpoint.host.empty()) return BadEndpoint(text, "the host is empty");
  if (endpoint.host.find_first_of("[] \t\n\r/") != std::string::npos) {
    return BadEndpoint(text, "the host has characters no host can have");
  }
  const char* first = text.data() + colon + 1;
  const char* last = text.data() + text.size();
  auto [end, error] = std::from_chars(first, last, endpoint.port);
  if (error != std::errc() || end != last || endpoint.port < 1 || endpoint.port > kPortMax) {
    return BadEndpoint(text, "the port is not a number from 1 to 65535");
  }
  return endpoint;
}

Result<Transport> ParseTransport(const std::string& name) {
  if (name == "auto") return Transport::kAuto;
  if (name == "tcp") return Transport::kTcp;
  if (name == "unix") return Transport::kUnix;
  return InvalidArgument("transport '" + name + "' is unknown; allowed are auto, tcp, unix");
}

}  // namespace ps::net
