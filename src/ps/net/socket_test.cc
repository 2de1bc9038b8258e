#include "ps/net/socket.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <fstream>
#include <string>

namespace ps::net {
namespace {

sockaddr_in Ipv4(const char* host, in_port_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = port;
  EXPECT_EQ(inet_pton(AF_INET, host, &address.sin_addr), 1);
  return address;
}

void Bind(const Fd& fd, const char* host) {
  const sockaddr_in address = Ipv4(host, 0);
  ASSERT_EQ(bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
}

// A connection from `host` to 127.0.0.1.
struct TcpPair {
  Fd client{socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)};
  Fd server;

  explicit TcpPair(const char* host) {
    const Fd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    Bind(listening, "127.0.0.1");
    EXPECT_EQ(listen(listening.get(), 1), 0);
    sockaddr_in address{};
    socklen_t bytes = sizeof(address);
    EXPECT_EQ(getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address), &bytes), 0);
    Bind(client, host);
    EXPECT_EQ(connect(client.get(), reinterpret_cast<sockaddr*>(&address), bytes), 0);
    server = Fd(accept(listening.get(), nullptr, nullptr));
    TuneStreamSocket(client.get(), /*is_unix=*/false);
    TuneStreamSocket(server.get(), /*is_unix=*/false);
  }
};

std::string CongestionControl(const Fd& fd) {
  char name[16] = {};
  socklen_t bytes = sizeof(name);
  EXPECT_EQ(getsockopt(fd.get(), IPPROTO_TCP, TCP_CONGESTION, name, &bytes), 0);
  return name;
}

TEST(TuneStreamSocket, WithinOneHostNothingIsPaced) {
  const TcpPair pair("127.0.0.1");
  EXPECT_EQ(CongestionControl(pair.client), "reno");
  EXPECT_EQ(CongestionControl(pair.server), "reno");
}

TEST(TuneStreamSocket, BetweenTwoAddressesTheSystemsCongestionControlStays) {
  std::string systems;
  std::ifstream("/proc/sys/net/ipv4/tcp_congestion_control") >> systems;
  const TcpPair pair("127.0.0.2");
  EXPECT_EQ(CongestionControl(pair.client), systems);
  EXPECT_EQ(CongestionControl(pair.server), systems);
}

}  // namespace
}  // namespace ps::net
