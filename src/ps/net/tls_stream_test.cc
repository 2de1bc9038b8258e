// TLS between real listeners and clients, and against those who do not speak it.
#include "ps/net/tls_stream.h"

#include "ps/net/listening_socket.h"
#include "ps/net/test_server.h"

namespace ps::net {
namespace {

using namespace testing_server;

class Tls : public testing::Test {
 protected:
  static std::shared_ptr<const TlsIdentity> NewIdentity() {
    return *TlsIdentity::Make(*MakeCredentials());
  }
  std::function<void(ListenerOptions*)> WithTls(
      std::function<void(ListenerOptions*)> more = {}) const {
    return [this, more](ListenerOptions* options) {
      options->tls = identity_;
      if (more) more(options);
    };
  }
  ConnectOptions Options(const TestServer& server) const {
    ConnectOptions options = server.Options(Transport::kTcp);
    options.tls_fingerprint = identity_->fingerprint();
    return options;
  }
  std::unique_ptr<ClientConnection> Connect(const TestServer& server) const {
    auto connection = ClientConnection::Connect(Options(server), In(10s));
    EXPECT_TRUE(connection.ok()) << connection.status().ToString();
    return connection.ok() ? std::move(connection).value() : nullptr;
  }

  const std::shared_ptr<const TlsIdentity> identity_ = NewIdentity();
};

TEST_F(Tls, FramesOfAllSizesComeBackUnchanged) {
  for (bool from_another_thread : {false, true}) {
    TestServer server(WithTls());
    server.handler.answer_from_another_thread = from_another_thread;
    auto connection = Connect(server);
    ASSERT_TRUE(connection);
    std::uint64_t id = 0;
    for (std::size_t bytes : {0u, 1u, 8'192u, 16'335u, 16'336u, 16'337u, 65'488u, 65'489u, 65'536u,
                              65'537u, (1u << 20) + 1, 5'000'001u}) {
      auto payload = Pattern(bytes, bytes);
      ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPull, ++id), payload).ok());
      auto reply = connection->ReadFrame(In(20s));
      ASSERT_TRUE(reply.ok()) << reply.status().ToString();
      EXPECT_EQ(reply->header.request_id, id);
      EXPECT_TRUE(reply->payload == payload) << bytes;
    }
  }
}

TEST_F(Tls, ManyPartsAndPipelinedFramesArriveInOrder) {
  TestServer server(WithTls());
  auto connection = Connect(server);
  auto payload = Pattern(200'000);
  std::vector<std::span<const std::byte>> parts;
  for (std::size_t at = 0, piece = 1; at < payload.size(); at += piece, piece = piece * 3 + 1) {
    parts.push_back(std::span(payload).subspan(at, std::min(piece, payload.size() - at)));
  }
  for (std::uint64_t id = 1; id <= 20; ++id) {
    ASSERT_TRUE(connection->SendFrame(Request(MessageType::kPull, id), parts, In(20s)).ok());
  }
  for (std::uint64_t id = 1; id <= 20; ++id) {
    auto reply = connection->ReadFrame(In(20s));
    ASSERT_TRUE(reply.ok()) << reply.status().ToString();
    EXPECT_EQ(reply->header.request_id, id);
    EXPECT_TRUE(reply->payload == payload);
  }
}

TEST_F(Tls, NothingOfAFrameIsReadableOnTheWire) {
  // A listener in the middle that keeps what it hears.
  TestServer server(WithTls());
  auto listening = ListenTcp("127.0.0.1", 0, 1).value();
  std::string heard;
  std::thread between([&] {
    pollfd knock{listening.fd.get(), POLLIN, 0};
    poll(&knock, 1, 10'000);
    Fd client(accept(listening.fd.get(), nullptr, nullptr));
    Fd onward = server.RawSocket(false);
    while (true) {
      pollfd both[2] = {{client.get(), POLLIN, 0}, {onward.get(), POLLIN, 0}};
      if (poll(both, 2, 10'000) <= 0) return;
      for (int i : {0, 1}) {
        if (both[i].revents == 0) continue;
        char bytes[4'096];
        ssize_t got = recv(both[i].fd, bytes, sizeof(bytes), 0);
        if (got <= 0) return;
        heard.append(bytes, static_cast<std::size_t>(got));
        (void)!send(both[1 - i].fd, bytes, static_cast<std::size_t>(got), MSG_NOSIGNAL);
      }
    }
  });
  ConnectOptions options = Options(server);
  options.endpoint.port = listening.port;
  const std::string text = "{\"words\":\"that nobody may read\"}";
  {
    auto connection = ClientConnection::Connect(options, In(10s));
    ASSERT_TRUE(connection.ok()) << connection.status().ToString();
    EXPECT_EQ(*(*connection)->Control(text, In(10s)), text);
  }
  between.join();
  EXPECT_GT(heard.size(), 2 * text.size());
  EXPECT_EQ(heard.find("nobody"), std::string::npos);
  EXPECT_EQ(heard.find("!PS1"), std::string::npos);
}

TEST_F(Tls, WrongFingerprintIsAnAuthenticationErrorThatNamesTheServer) {
  TestServer server(WithTls());
  ConnectOptions options = Options(server);
  options.tls_fingerprint = NewIdentity()->fingerprint();
  Status status = ClientConnection::Connect(options, In(10s)).status();
  EXPECT_EQ(status.code(), StatusCode::kAuthentication) << status.ToString();
  EXPECT_NE(status.message().find("server 3 at "), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("another certificate"), std::string::npos) << status.message();
  EXPECT_EQ(server.listener->Stats().connections_total, 0u);
}

TEST_F(Tls, TheSecretIsAskedForInsideIt) {
  TestServer server(WithTls());
  ConnectOptions options = Options(server);
  options.secret[0] ^= 1;
  EXPECT_EQ(ClientConnection::Connect(options, In(10s)).status().code(),
            StatusCode::kAuthentication);
}

// At once: the deadline is far off, and the listener's own is 5 s.
TEST_F(Tls, OneSideWithoutItIsAConfigurationErrorAtOnce) {
  TestServer with(WithTls());
  TestServer without;
  ConnectOptions plain = with.Options(Transport::kTcp);
  ConnectOptions by_tls = Options(without);
  for (const ConnectOptions& options : {plain, by_tls}) {
    SteadyTime started = std::chrono::steady_clock::now();
    Status status = ClientConnection::Connect(options, In(60s)).status();
    EXPECT_EQ(status.code(), StatusCode::kConfiguration) << status.ToString();
    EXPECT_NE(status.message().find("server 3 at "), std::string::npos) << status.message();
    EXPECT_NE(status.message().find("by TLS, the other one without"), std::string::npos);
    EXPECT_LT(std::chrono::steady_clock::now() - started, 4s);
  }
}

TEST_F(Tls, UnixSocketsDoWithoutIt) {
  TestServer server(WithTls());
  ConnectOptions options = Options(server);
  options.transport = Transport::kUnix;
  auto connection = ClientConnection::Connect(options, In(10s));
  ASSERT_TRUE(connection.ok()) << connection.status().ToString();
  EXPECT_TRUE((*connection)->over_unix());
}

TEST_F(Tls, GarbageAtThePortHurtsNobody) {
  TestServer server(WithTls());
  auto friendly = Connect(server);
  std::vector<std::string> strangers = {"GET / HTTP/1.1\r\n\r\n", std::string(70'000, '\0'),
                                        std::string("\x16\x03\x01\xff\xff", 5)};
  // A real first flight, cut and damaged.
  Fd pair[2];
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends), 0);
  pair[0] = Fd(ends[0]);
  pair[1] = Fd(ends[1]);
  auto stream = MakeTlsClientStream(pair[0].get(), identity_->fingerprint()).value();
  ASSERT_TRUE(stream->ShakeHands().ok());
  char flight[4'096];
  ssize_t bytes = recv(pair[1].get(), flight, sizeof(flight), 0);
  ASSERT_GT(bytes, 100);
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    std::string damaged(flight, static_cast<std::size_t>(bytes));
    for (int flips = 0; flips < 3; ++flips) {
      damaged[random() % damaged.size()] ^= static_cast<char>(1 + random() % 255);
    }
    damaged.resize(1 + random() % damaged.size());
    strangers.push_back(damaged);
  }
  for (int i = 0; i < 50; ++i) {
    std::string noise(random() % 2'000, '\0');
    for (char& c : noise) c = static_cast<char>(random());
    strangers.push_back(noise);
  }
  for (const std::string& words : strangers) {
    Fd fd = server.RawSocket(false);
    (void)!send(fd.get(), words.data(), words.size(), MSG_NOSIGNAL);
    shutdown(fd.get(), SHUT_WR);
    EXPECT_TRUE(IsClosed(fd.get()));
  }
  EXPECT_EQ(*friendly->Control("{}", In(10s)), "{}");
  EXPECT_TRUE(Connect(server));
  EXPECT_EQ(server.listener->Stats().connections_total, 2u);
}

TEST_F(Tls, DamagedRecordClosesItsConnectionAndNoOther) {
  TestServer server(WithTls());
  auto damaged = Connect(server);
  auto other = Connect(server);
  std::string record = std::string("\x17\x03\x03\x00\x20", 5) + std::string(32, 'x');
  ASSERT_EQ(send(damaged->fd(), record.data(), record.size(), MSG_NOSIGNAL), 37);
  EXPECT_TRUE(Eventually([&] { return server.listener->Stats().connections_open == 1; }));
  EXPECT_EQ(*other->Control("{}", In(10s)), "{}");
}

TEST_F(Tls, RepliesThatNobodyReadsStopTheReadingUntilTheyAreRead) {
  constexpr std::uint64_t kReplyBytes = 1 << 20;
  constexpr int kRequests = 60;
  TestServer server(
      WithTls([](ListenerOptions* options) { options->unsent_bytes_max = 4 * kReplyBytes; }));
  auto connection = Connect(server);
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPush, i, kReplyBytes), {}).ok());
  }
  EXPECT_TRUE(Eventually([&] { return server.handler.frames >= 5; }));
  EXPECT_LT(server.handler.frames, 40) << "4 MiB may wait, and the socket holds some";
  for (int i = 0; i < kRequests; ++i) {
    auto reply = connection->ReadFrame(In(20s));
    ASSERT_TRUE(reply.ok()) << reply.status().ToString();
    ASSERT_EQ(reply->header.request_id, static_cast<std::uint64_t>(i));
    ASSERT_EQ(reply->payload.size(), kReplyBytes);
  }
}

TEST_F(Tls, PeerThatStopsAmidARequestOrAReplyIsClosed) {
  TestServer server(WithTls([](ListenerOptions* options) { options->stall_timeout_ms = 200; }));
  auto amid_request = Connect(server);
  FrameHeader more = Request(MessageType::kPull, 1);
  more.flags = wire::kMore;
  ASSERT_TRUE(SendOne(amid_request.get(), more, {}).ok());
  auto amid_reply = Connect(server);
  ASSERT_TRUE(SendOne(amid_reply.get(), Request(MessageType::kPush, 1, 32 << 20), {}).ok());
  EXPECT_TRUE(Eventually([&] { return server.listener->Stats().stalled_total == 2; }, 30s));
}

// Replies leave from several threads while requests arrive on another.
TEST_F(Tls, ReadingAndWritingAtOnceFromSeveralThreadsIsSafe) {
  TestServer server(WithTls());
  auto connection = Connect(server);
  ASSERT_TRUE(connection->Control("{}", In(10s)).ok());
  ConnectionPtr peer = server.handler.last;
  std::vector<std::thread> threads;
  for (std::uint64_t t = 1; t <= 2; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        FrameHeader header = Request(MessageType::kPullReply, 1'000 + t);
        header.flags = wire::kMore;
        peer->Send(header, Buffer(10'000));
      }
    });
  }
  for (std::uint64_t id = 1; id <= 100; ++id) {
    auto payload = Pattern(5'000, id);
    ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPull, id), payload).ok());
    while (true) {
      auto reply = connection->ReadFrame(In(20s));
      ASSERT_TRUE(reply.ok()) << reply.status().ToString();
      if (reply->header.request_id != id) continue;
      EXPECT_TRUE(reply->payload == payload);
      break;
    }
  }
  for (auto& thread : threads) thread.join();
  peer->Close();
  EXPECT_TRUE(Eventually([&] { return server.handler.closes == 1; }));
}

}  // namespace
}  // namespace ps::net
