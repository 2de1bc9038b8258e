// What a client sees of crooked, silent and missing servers.
#include "ps/net/test_server.h"

namespace ps::net {
namespace {

using namespace testing_server;

class Clients : public testing::TestWithParam<Transport> {
 protected:
  bool over_unix() const { return GetParam() == Transport::kUnix; }
};
INSTANTIATE_TEST_SUITE_P(Both, Clients, testing::Values(Transport::kTcp, Transport::kUnix),
                         [](auto& test) {
                           return test.param == Transport::kTcp ? std::string("Tcp") : "Unix";
                         });

// A server of the test's own that shakes hands, then sends `reply`, then closes.
class CrookedServer {
 public:
  explicit CrookedServer(std::string reply) : reply_(std::move(reply)) {
    listening_ = Fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    SocketAddress address = (*Resolve("127.0.0.1", 0, In(10s)))[0];
    EXPECT_EQ(bind(listening_.get(), address.get(), address.bytes), 0);
    EXPECT_EQ(listen(listening_.get(), 1), 0);
    socklen_t bytes = sizeof(address.storage);
    getsockname(listening_.get(), reinterpret_cast<sockaddr*>(&address.storage), &bytes);
    port_ = ntohs(reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port);
    thread_ = std::thread([this] { Serve(); });
  }
  ~CrookedServer() { thread_.join(); }

  std::unique_ptr<ClientConnection> Connect() {
    ConnectOptions options;
    options.endpoint = {"127.0.0.1", port_, ""};
    options.secret = kSecret;
    options.expected = kIdentity;
    auto connection = ClientConnection::Connect(options, In(10s));
    EXPECT_TRUE(connection.ok()) << connection.status().ToString();
    return std::move(connection).value();
  }

 private:
  void Serve() {
    Fd client(accept(listening_.get(), nullptr, nullptr));
    char block[80];
    ASSERT_EQ(recv(client.get(), block, 80, MSG_WAITALL), 80);
    auto hello = wire::DecodeHello(std::as_bytes(std::span(block + 48, 32)));
    wire::Nonce nonce{};
    std::string challenge = FrameText(
        MessageType::kChallenge,
        wire::EncodeChallenge(
            {nonce, kIdentity, wire::ServerProof(kSecret, hello->nonce, nonce, kIdentity)}));
    send(client.get(), challenge.data(), challenge.size(), MSG_NOSIGNAL);
    ASSERT_EQ(recv(client.get(), block, 80, MSG_WAITALL), 80);
    std::string rest = FrameText(MessageType::kWelcome, "") + reply_;
    send(client.get(), rest.data(), rest.size(), MSG_NOSIGNAL);
  }

  std::string reply_;
  Fd listening_;
  int port_ = 0;
  std::thread thread_;
};

TEST(CrookedServers, FlippedBitsInRepliesAreCorruption) {
  std::string good = FrameText(MessageType::kPullReply, "12345678");
  for (std::size_t at : {0u, 8u, 40u, 48u, 55u}) {
    std::string bad = good;
    bad[at] ^= 1;
    CrookedServer server(bad);
    EXPECT_EQ(server.Connect()->ReadFrame(In(10s)).status().code(), StatusCode::kDataCorruption)
        << at;
  }
  CrookedServer server(good);
  EXPECT_TRUE(server.Connect()->ReadFrame(In(10s)).ok());
}

TEST(CrookedServers, ReplyCutShortIsAConnectionError) {
  std::string good = FrameText(MessageType::kPullReply, "12345678");
  for (std::size_t bytes : {0u, 10u, 48u, 55u}) {
    CrookedServer server(good.substr(0, bytes));
    Status status = server.Connect()->ReadFrame(In(10s)).status();
    EXPECT_EQ(status.code(), StatusCode::kConnection) << bytes;
    EXPECT_NE(status.message().find("server 3 at 127.0.0.1:"), std::string::npos);
  }
}

TEST(CrookedServers, ErrorReplyToControlBecomesItsStatus) {
  std::vector<std::byte> error = wire::EncodeError(NotFound("barrier 'x' does not exist"));
  std::string frame = FrameText(MessageType::kError,
                                std::string(reinterpret_cast<char*>(error.data()), error.size()));
  FrameHeader header =
      *wire::DecodeHeader(std::as_bytes(std::span(frame.data(), 48)).first<48>(), 1 << 20);
  header.request_id = 1;
  wire::EncodeHeader(header,
                     std::span<std::byte, 48>(reinterpret_cast<std::byte*>(frame.data()), 48));
  CrookedServer server(frame);
  Status status = server.Connect()->Control("{}", In(10s)).status();
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "barrier 'x' does not exist");
}

// --- deadlines

TEST(Deadlines, HoldWhileConnectingAndShakingHands) {
  // Listens, and never accepts.
  Fd listening(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketAddress address = (*Resolve("127.0.0.1", 0, In(10s)))[0];
  ASSERT_EQ(bind(listening.get(), address.get(), address.bytes), 0);
  ASSERT_EQ(listen(listening.get(), 1), 0);
  socklen_t bytes = sizeof(address.storage);
  getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address.storage), &bytes);
  ConnectOptions options;
  options.endpoint.host = "127.0.0.1";
  options.endpoint.port = ntohs(reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port);
  options.secret = kSecret;
  std::vector<Fd> filling;
  for (int i = 0; i < 4;
       ++i) {  // the fourth call waits in connect, the first ones in the handshake
    auto begin = std::chrono::steady_clock::now();
    Status status = ClientConnection::Connect(options, In(50ms)).status();
    EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.ToString();
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 3s);
    Fd more(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    (void)connect(more.get(), address.get(), address.bytes);
    filling.push_back(std::move(more));
  }
}

TEST(Deadlines, HoldOnAFullUnixQueue) {
  std::string path = "/tmp/ps_net_full_" + std::to_string(getpid());
  unlink(path.c_str());
  Fd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketAddress address = *UnixAddress(path);
  ASSERT_EQ(bind(listening.get(), address.get(), address.bytes), 0);
  ASSERT_EQ(listen(listening.get(), 0), 0);
  std::vector<Fd> filling;
  for (int i = 0; i < 4; ++i) {
    filling.emplace_back(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    (void)connect(filling.back().get(), address.get(), address.bytes);
  }
  ConnectOptions options;
  options.endpoint.unix_path = path;
  options.secret = kSecret;
  Status status = ClientConnection::Connect(options, In(50ms)).status();
  EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.ToString();
  unlink(path.c_str());
}

TEST_P(Clients, DeadlineHoldsWhileWaitingForAReply) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  auto begin = std::chrono::steady_clock::now();
  Status status = connection->ReadHeader(In(50ms)).status();
  EXPECT_EQ(status.code(), StatusCode::kTimeout);
  EXPECT_NE(status.message().find("server 3 at "), std::string::npos);
  auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_GE(took, 50ms);
  EXPECT_LT(took, 3s);
}

TEST_P(Clients, DeadlineHoldsWhileThePeerDoesNotRead) {
  // The server stops reading when too many replies wait; then the client's own sending blocks.
  TestServer server([](ListenerOptions* options) { options->unsent_bytes_max = 1 << 20; });
  auto connection = server.Connect(GetParam());
  auto payload = Pattern(1 << 20);
  Status status = Status::Ok();
  for (int i = 0; i < 200 && status.ok(); ++i) {
    status = SendOne(connection.get(), Request(MessageType::kPull, 1), payload, 200ms);
  }
  EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.ToString();
}

TEST(Auto, PrefersTheUnixSocketAndFallsBackToTcp) {
  TestServer server;
  EXPECT_TRUE(server.Connect(Transport::kAuto)->over_unix());

  ConnectOptions options = server.Options(Transport::kAuto);
  options.endpoint.unix_path = "/tmp/ps_net_no_such_socket";
  EXPECT_FALSE((*ClientConnection::Connect(options, In(10s)))->over_unix());

  // A socket of that name whose server is another one.
  TestServer other([](ListenerOptions* listen) { listen->identity.server_id = 8; });
  options.endpoint.unix_path = other.options.unix_path;
  auto connection = ClientConnection::Connect(options, In(10s));
  ASSERT_TRUE(connection.ok());
  EXPECT_FALSE((*connection)->over_unix());
  EXPECT_EQ((*connection)->peer(), kIdentity);
}

TEST(Auto, HangingUnixSocketLeavesTimeForTcp) {
  TestServer server;
  std::string path = "/tmp/ps_net_hang_" + std::to_string(getpid());
  unlink(path.c_str());
  Fd listening(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  SocketAddress address = *UnixAddress(path);
  ASSERT_EQ(bind(listening.get(), address.get(), address.bytes), 0);
  ASSERT_EQ(listen(listening.get(), 5), 0);
  ConnectOptions options = server.Options(Transport::kAuto);
  options.endpoint.unix_path = path;
  auto connection = ClientConnection::Connect(options, In(2s));
  ASSERT_TRUE(connection.ok()) << connection.status().ToString();
  EXPECT_FALSE((*connection)->over_unix());
  unlink(path.c_str());
}

TEST(Connecting, NobodyThereIsAConnectionErrorThatNamesTheEndpoint) {
  ConnectOptions options;
  options.endpoint = {"127.0.0.1", 1, "/tmp/ps_net_no_such_socket"};
  options.secret = kSecret;
  Status tcp = ClientConnection::Connect(options, In(5s)).status();
  EXPECT_EQ(tcp.code(), StatusCode::kConnection);
  EXPECT_NE(tcp.message().find("127.0.0.1:1"), std::string::npos) << tcp.message();
  options.transport = Transport::kUnix;
  Status unix_status = ClientConnection::Connect(options, In(5s)).status();
  EXPECT_EQ(unix_status.code(), StatusCode::kConnection);
  EXPECT_NE(unix_status.message().find("ps_net_no_such_socket"), std::string::npos);
  options.transport = Transport::kTcp;
  options.endpoint.host = "no-such-host.invalid";
  Status name = ClientConnection::Connect(options, In(20s)).status();
  EXPECT_TRUE(name.code() == StatusCode::kConnection || name.code() == StatusCode::kTimeout);
  EXPECT_NE(name.message().find("no-such-host.invalid"), std::string::npos) << name.message();
}

TEST(Connecting, NamesAreLookedUp) {
  TestServer server([](ListenerOptions* options) { options->host = ""; });
  ConnectOptions options = server.Options(Transport::kTcp);
  for (const char* host : {"localhost", "127.0.0.1"}) {
    options.endpoint.host = host;
    EXPECT_TRUE(ClientConnection::Connect(options, In(10s)).ok()) << host;
  }
}

}  // namespace
}  // namespace ps::net
