// The handshake over real sockets, with friends and strangers.
#include <netinet/tcp.h>

#include <climits>

#include "ps/net/test_server.h"

namespace ps::net {
namespace {

using namespace testing_server;

class Handshakes : public testing::TestWithParam<Transport> {
 protected:
  bool over_unix() const { return GetParam() == Transport::kUnix; }
};
INSTANTIATE_TEST_SUITE_P(Both, Handshakes, testing::Values(Transport::kTcp, Transport::kUnix),
                         [](auto& test) {
                           return test.param == Transport::kTcp ? std::string("Tcp") : "Unix";
                         });

// --- the handshake

TEST_P(Handshakes, HandshakeProvesWhoAnswers) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  ASSERT_TRUE(connection);
  EXPECT_EQ(connection->peer(), kIdentity);
  EXPECT_EQ(connection->over_unix(), over_unix());
  EXPECT_EQ(*connection->Control("{\"op\":\"x\"}", In(10s)), "{\"op\":\"x\"}");
  EXPECT_EQ(server.listener->Stats().authentication_failures_total, 0u);
  EXPECT_EQ(server.listener->Stats().connections_open, 1u);
}

TEST_P(Handshakes, WrongSecretIsAnAuthenticationErrorThatNamesTheServer) {
  TestServer server;
  ConnectOptions options = server.Options(GetParam());
  options.secret[0] ^= 1;
  Status status = ClientConnection::Connect(options, In(10s)).status();
  EXPECT_EQ(status.code(), StatusCode::kAuthentication) << status.ToString();
  EXPECT_NE(status.message().find("server 3 at "), std::string::npos) << status.message();
  EXPECT_TRUE(
      Eventually([&] { return server.listener->Stats().authentication_failures_total == 1; }));
}

TEST_P(Handshakes, RestartedServerIsNotTakenForTheOldOne) {
  TestServer server;
  ConnectOptions options = server.Options(GetParam());
  options.expected.incarnation ^= 1;
  Status status = ClientConnection::Connect(options, In(10s)).status();
  EXPECT_EQ(status.code(), StatusCode::kConnection);
  EXPECT_NE(status.message().find("restarted and has lost its rows"), std::string::npos);
  options.expected.incarnation = 0;
  EXPECT_TRUE(ClientConnection::Connect(options, In(10s)).ok()) << "0 is any incarnation";
  options.expected.server_id = 4;
  status = ClientConnection::Connect(options, In(10s)).status();
  EXPECT_EQ(status.code(), StatusCode::kConnection);
  EXPECT_NE(status.message().find("not server 4"), std::string::npos) << status.message();
}

TEST_P(Handshakes, ShortSecretIsRefusedOnBothSides) {
  TestServer server;
  ConnectOptions options = server.Options(GetParam());
  options.secret = "short";
  EXPECT_EQ(ClientConnection::Connect(options, In(1s)).status().code(),
            StatusCode::kInvalidArgument);
  ListenerOptions listen;
  listen.secret = "short";
  asio::io_context context;
  EXPECT_EQ(Listener::Start(listen, {&context}, &server.handler).status().code(),
            StatusCode::kInvalidArgument);
}

TEST_P(Handshakes, StrangersGetNothingAndHurtNobody) {
  TestServer server;
  auto friend_connection = server.Connect(GetParam());
  wire::Nonce nonce{};
  std::string hello = FrameText(MessageType::kHello, wire::EncodeHello({nonce}));
  std::string strangers[] = {
      "GET / HTTP/1.1\r\nHost: x\r\n\r\n" + std::string(200, 'x'),
      std::string(200, '\0'),
      FrameText(MessageType::kPull, std::string(100, 'x')),
      FrameText(MessageType::kHello, std::string(31, 'x')) + std::string(100, 'y'),
      FrameText(MessageType::kHello, std::string(4'096, 'x')),
      FrameText(MessageType::kHello, std::string(4'097, 'x')),
      FrameText(MessageType::kProof, std::string(32, 'x')),
      hello + hello,
      hello + FrameText(MessageType::kProof, std::string(32, 'x')),
      hello + FrameText(MessageType::kPull, std::string(100, 'x')),
  };
  for (const std::string& bytes : strangers) {
    Fd fd = server.RawSocket(over_unix());
    ASSERT_GT(send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
    EXPECT_TRUE(IsClosed(fd.get()));
  }
  EXPECT_TRUE(Eventually([&] {
    return server.listener->Stats().authentication_failures_total == std::size(strangers);
  }));
  EXPECT_EQ(server.handler.frames, 0);
  EXPECT_TRUE(friend_connection->Control("{}", In(10s)).ok());
}

TEST_P(Handshakes, RecordedHandshakeIsOfNoUseASecondTime) {
  TestServer server;
  // Between client and server, writing down what the client says.
  Fd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketAddress address = (*Resolve("127.0.0.1", 0, In(10s)))[0];
  ASSERT_EQ(bind(listening.get(), address.get(), address.bytes), 0);
  ASSERT_EQ(listen(listening.get(), 1), 0);
  socklen_t bytes = sizeof(address.storage);
  getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address.storage), &bytes);
  std::string said;
  std::thread relay([&] {
    Fd client(accept(listening.get(), nullptr, nullptr));
    Fd inner = server.RawSocket(over_unix());
    char block[256];
    for (std::size_t answer : {48 + 80, 48}) {
      ASSERT_EQ(recv(client.get(), block, 80, MSG_WAITALL), 80);
      said.append(block, 80);
      ASSERT_EQ(send(inner.get(), block, 80, 0), 80);
      ASSERT_EQ(recv(inner.get(), block, answer, MSG_WAITALL), static_cast<ssize_t>(answer));
      ASSERT_EQ(send(client.get(), block, answer, 0), static_cast<ssize_t>(answer));
    }
  });
  ConnectOptions options = server.Options(Transport::kTcp);
  options.endpoint.port = ntohs(reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port);
  EXPECT_TRUE(ClientConnection::Connect(options, In(10s)).ok()) << "a relay is not noticed";
  relay.join();
  ASSERT_EQ(said.size(), 160u);

  Fd replay = server.RawSocket(over_unix());
  ASSERT_EQ(send(replay.get(), said.data(), said.size(), MSG_NOSIGNAL), 160);
  EXPECT_TRUE(IsClosed(replay.get()));
  EXPECT_TRUE(
      Eventually([&] { return server.listener->Stats().authentication_failures_total == 1; }));
}

TEST_P(Handshakes, SilentAndSlowStrangersAreClosedInTime) {
  TestServer server([](ListenerOptions* options) { options->handshake_timeout_ms = 100; });
  Fd silent = server.RawSocket(over_unix());
  Fd slow = server.RawSocket(over_unix());
  std::string hello = FrameText(MessageType::kHello, std::string(32, 'x'));
  auto begin = std::chrono::steady_clock::now();
  std::thread dripping([&] {
    for (char byte : hello) {
      if (send(slow.get(), &byte, 1, MSG_NOSIGNAL) != 1) return;
      std::this_thread::sleep_for(20ms);
    }
  });
  EXPECT_TRUE(IsClosed(silent.get()));
  EXPECT_TRUE(IsClosed(slow.get()));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  dripping.join();
  EXPECT_EQ(server.listener->Stats().authentication_failures_total, 2u);
}

TEST_P(Handshakes, ManyStrangersDoNotLockOutAFriend) {
  TestServer server([](ListenerOptions* options) {
    options->handshakes_max = 4;
    options->connections_max = 2;
    options->handshake_timeout_ms = 60'000;
  });
  std::vector<Fd> strangers;
  for (int i = 0; i < 40; ++i) strangers.push_back(server.RawSocket(over_unix()));
  auto first = server.Connect(GetParam());
  auto second = server.Connect(GetParam());
  ASSERT_TRUE(first && second);
  EXPECT_TRUE(first->Control("{}", In(10s)).ok());
  EXPECT_TRUE(IsClosed(strangers[0].get())) << "the oldest went first";
  EXPECT_GE(server.listener->Stats().authentication_failures_total, 36u);
}

TEST_P(Handshakes, OneConnectionTooManyIsToldSo) {
  TestServer server([](ListenerOptions* options) { options->connections_max = 1; });
  auto first = server.Connect(GetParam());
  Status status = ClientConnection::Connect(server.Options(GetParam()), In(10s)).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
  EXPECT_TRUE(first->Control("{}", In(10s)).ok());
  first.reset();
  EXPECT_TRUE(Eventually([&] { return server.listener->Stats().connections_open == 0; }));
  EXPECT_TRUE(server.Connect(GetParam()));
}

// --- hosts that are gone

int TcpOption(int fd, int name) {
  int value = 0;
  socklen_t bytes = sizeof(value);
  EXPECT_EQ(getsockopt(fd, IPPROTO_TCP, name, &value, &bytes), 0);
  return value;
}

// The other end of a connection in this process.
int OtherEnd(int fd) {
  const std::string wanted = PeerAddress(fd);
  for (int other = 0; other < 1'024; ++other) {
    sockaddr_in local{};
    socklen_t bytes = sizeof(local);
    if (other == fd || getsockname(other, reinterpret_cast<sockaddr*>(&local), &bytes) != 0)
      continue;
    bool is_stream = local.sin_family == AF_INET && PeerAddress(other) != "unknown";
    if (is_stream && "127.0.0.1:" + std::to_string(ntohs(local.sin_port)) == wanted) return other;
  }
  return -1;
}

// Idle and with bytes under way; the probes begin at half of it.
TEST(SilentHosts, AreGivenUpOnBothSidesAfterTheTimeConfigured) {
  TestServer server([](ListenerOptions* options) { options->peer_silence_ms = 24'000; });
  ConnectOptions options = server.Options(Transport::kTcp);
  options.peer_silence_ms = 24'000;
  auto connection = ClientConnection::Connect(options, In(10s)).value();
  for (int fd : {connection->fd(), OtherEnd(connection->fd())}) {
    int idle = TcpOption(fd, TCP_KEEPIDLE);
    int probes = TcpOption(fd, TCP_KEEPCNT) * TcpOption(fd, TCP_KEEPINTVL);
    EXPECT_EQ(idle, 12);
    EXPECT_EQ(idle + probes, 24);
    EXPECT_EQ(TcpOption(fd, TCP_USER_TIMEOUT), 24'000);
  }
  EXPECT_EQ(PeerSilenceMs(0.5), limits::kStallTimeoutMs) << "a slow peer is no silent one";
  EXPECT_EQ(PeerSilenceMs(60.0), kPeerSilenceMs);
  EXPECT_EQ(PeerSilenceMs(1e300), INT_MAX);
}

}  // namespace
}  // namespace ps::net
