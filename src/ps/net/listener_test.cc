// Ports, socket files, descriptors, dealing out and stopping.
#include "ps/net/test_server.h"

namespace ps::net {
namespace {

using namespace testing_server;

class Listeners : public testing::TestWithParam<Transport> {
 protected:
  bool over_unix() const { return GetParam() == Transport::kUnix; }
};
INSTANTIATE_TEST_SUITE_P(Both, Listeners, testing::Values(Transport::kTcp, Transport::kUnix),
                         [](auto& test) {
                           return test.param == Transport::kTcp ? std::string("Tcp") : "Unix";
                         });

TEST(Listening, TakenPortMovesOnToTheNextFreeOne) {
  TestServer first;
  int taken = first.listener->port();
  TestServer second([&](ListenerOptions* options) { options->port_base = taken; });
  EXPECT_GT(second.listener->port(), taken);
  EXPECT_TRUE(second.Connect(Transport::kTcp));
  asio::io_context context;
  ListenerOptions options = first.options;
  options.unix_path = "";
  options.port_base = taken;
  options.ports_tried_max = 1;
  Status status = Listener::Start(options, {&context}, &first.handler).status();
  EXPECT_EQ(status.code(), StatusCode::kConnection);
  EXPECT_NE(status.message().find(std::to_string(taken)), std::string::npos);
}

TEST(Listening, SocketFileIsPrivateAndRemovedAtTheEnd) {
  TestServer server;
  struct stat info {};
  ASSERT_EQ(stat(server.options.unix_path.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  server.listener->Stop();
  EXPECT_NE(stat(server.options.unix_path.c_str(), &info), 0);
}

TEST(Listening, StaleSocketFileIsReplacedALivingOneIsNot) {
  std::string path = "/tmp/ps_net_stale_" + std::to_string(getpid());
  {
    Fd stale(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    SocketAddress address = *UnixAddress(path);
    ASSERT_EQ(bind(stale.get(), address.get(), address.bytes), 0);
  }
  TestServer server([&](ListenerOptions* options) { options->unix_path = path; });
  EXPECT_TRUE(server.Connect(Transport::kUnix));

  asio::io_context context;
  ListenerOptions options = server.options;
  EXPECT_EQ(Listener::Start(options, {&context}, &server.handler).status().code(),
            StatusCode::kInvalidArgument)
      << "somebody listens there";
  EXPECT_TRUE(server.Connect(Transport::kUnix));
  server.listener->Stop();

  std::ofstream(path) << "not a socket";
  EXPECT_EQ(Listener::Start(options, {&context}, &server.handler).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_TRUE(std::filesystem::exists(path)) << "a file of another kind is never removed";
  std::filesystem::remove(path);
}

TEST(Listening, SocketPathOf107BytesPassesAndOf108DoesNot) {
  for (std::size_t bytes : {107u, 108u}) {
    std::string path = "/tmp/ps_net_long_" + std::to_string(getpid()) + "_";
    path.resize(bytes, 'x');
    asio::io_context context;
    EchoHandler handler;
    ListenerOptions options;
    options.host = "127.0.0.1";
    options.secret = kSecret;
    options.unix_path = path;
    context.stop();
    auto listener = Listener::Start(options, {&context}, &handler);
    EXPECT_EQ(listener.ok(), bytes == 107) << listener.status().ToString();
    StatusCode expected = bytes == 107 ? StatusCode::kOk : StatusCode::kInvalidArgument;
    EXPECT_EQ(listener.status().code(), expected);
  }
}

TEST(Listening, NoDescriptorSurvivesExec) {
  TestServer server;
  auto tcp = server.Connect(Transport::kTcp);
  auto unix_connection = server.Connect(Transport::kUnix);
  ASSERT_TRUE(tcp->Control("{}", In(10s)).ok() && unix_connection->Control("{}", In(10s)).ok());
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    int fd = std::stoi(entry.path().filename().string());
    std::error_code error;
    std::string target = std::filesystem::read_symlink(entry.path(), error).string();
    bool is_ours = target.starts_with("socket:") || target.find("event") != std::string::npos;
    if (fd <= 2 || !is_ours) continue;
    EXPECT_TRUE(fcntl(fd, F_GETFD) & FD_CLOEXEC) << fd << " " << target;
  }
}

TEST(Listening, OutOfDescriptorsItWaitsAndGoesOn) {
  TestServer server;
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
  Fd waiting_peer(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  Fd probe(dup(0));
  rlimit tight = old;
  tight.rlim_cur = static_cast<rlim_t>(probe.get());
  probe.Reset();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &tight), 0);
  SocketAddress address;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  v4->sin_family = AF_INET;
  v4->sin_port = htons(static_cast<std::uint16_t>(server.listener->port()));
  v4->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(waiting_peer.get(), address.get(), sizeof(sockaddr_in)), 0);
  rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  std::this_thread::sleep_for(300ms);
  getrusage(RUSAGE_SELF, &after);
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
  auto used_us = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1'000'000 +
                 after.ru_utime.tv_usec - before.ru_utime.tv_usec;
  EXPECT_LT(used_us, 150'000) << "it must not spin meanwhile";
  EXPECT_TRUE(server.Connect(Transport::kTcp));
}

TEST_P(Listeners, AreDealtOutOverTheContextsInTurn) {
  TestServer server({}, 3);
  Fd stranger = server.RawSocket(over_unix());
  std::vector<std::unique_ptr<ClientConnection>> connections;
  for (int i = 0; i < 12; ++i) {
    connections.push_back(server.Connect(GetParam()));
    ASSERT_TRUE(connections.back()->Control("{}", In(10s)).ok());
  }
  std::vector<int> per_context(3);
  std::lock_guard lock(server.handler.mutex);
  for (auto [id, context] : server.handler.context_of) ++per_context[context];
  EXPECT_EQ(per_context, (std::vector<int>{4, 4, 4}));
}

TEST_P(Listeners, ManyAtOnceAreAllServed) {
  TestServer server;
  constexpr int kThreads = 4;
  constexpr int kPerThread = 10;
  std::atomic<int> answered{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::unique_ptr<ClientConnection>> mine;
      for (int i = 0; i < kPerThread; ++i) mine.push_back(server.Connect(GetParam()));
      for (int round = 0; round < 5; ++round) {
        for (auto& connection : mine) {
          auto payload = Pattern(static_cast<std::size_t>(1'000 * (t + round)), round);
          if (!SendOne(connection.get(), Request(MessageType::kPull, 1), payload).ok()) return;
        }
        for (auto& connection : mine) {
          auto reply = connection->ReadFrame(In(20s));
          if (reply.ok() && reply->payload.size() == 1'000u * (t + round)) ++answered;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(answered, kThreads * kPerThread * 5);
  EXPECT_EQ(server.listener->Stats().connections_total, 40u);
  EXPECT_TRUE(Eventually([&] { return server.handler.closes == 40; }));
}

TEST_P(Listeners, StopWhileBusyClosesEverything) {
  for (int round = 0; round < 5; ++round) {
    TestServer server;
    std::atomic<bool> stop{false};
    std::atomic<int> served{0};
    std::vector<std::thread> clients;
    for (int t = 0; t < 3; ++t) {
      clients.emplace_back([&] {
        while (!stop) {
          auto connection = ClientConnection::Connect(server.Options(GetParam()), In(5s));
          if (!connection.ok()) continue;
          auto payload = Pattern(200'000);
          while (SendOne(connection->get(), Request(MessageType::kPull, 1), payload, 5s).ok() &&
                 (*connection)->ReadFrame(In(5s)).ok()) {
            ++served;
          }
        }
      });
    }
    EXPECT_TRUE(Eventually([&] { return served > 10; }));
    server.listener->Stop();
    stop = true;
    for (auto& client : clients) client.join();
    EXPECT_TRUE(Eventually([&] { return server.listener->Stats().connections_open == 0; }));
    ListenerStats stats = server.listener->Stats();
    EXPECT_TRUE(Eventually([&] {
      return static_cast<std::uint64_t>(server.handler.closes) == stats.connections_total;
    }));
  }
}

TEST_P(Listeners, ListenerMayGoAfterItsContextsHaveStopped) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  ASSERT_TRUE(connection->Control("{}", In(10s)).ok());
  Fd stranger = server.RawSocket(over_unix());
  server.StopContexts();
  server.listener.reset();
  EXPECT_FALSE(connection->Control("{}", In(10s)).ok());
  EXPECT_EQ(server.handler.closes, 0) << "no thread is left to call it on";
}

TEST_P(Listeners, SendAndCloseFromOtherThreadsAreSafeAtAnyTime) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  ASSERT_TRUE(connection->Control("{}", In(10s)).ok());
  ConnectionPtr peer = server.handler.last;
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        FrameHeader header = Request(MessageType::kPullReply, static_cast<std::uint64_t>(t));
        peer->Send(header, Buffer(64));
        if (t == 2 && i == 150) peer->Close();
        if (i % 50 == 0) peer->SendError(1, NotFound("x"));
      }
    });
  }
  int got = 0;
  while (connection->ReadFrame(In(10s)).ok()) ++got;
  for (auto& thread : threads) thread.join();
  EXPECT_GT(got, 0);
  EXPECT_TRUE(Eventually([&] { return server.handler.closes == 1; }));
  peer->Send(Request(MessageType::kPullReply, 1), Buffer(8));
  peer->Close();
}

}  // namespace
}  // namespace ps::net
