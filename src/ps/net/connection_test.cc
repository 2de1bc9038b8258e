// Listener and ClientConnection over real sockets, TCP and Unix.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <asio/executor_work_guard.hpp>
#include <asio/post.hpp>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <thread>

#include "ps/net/client_connection.h"
#include "ps/net/listener.h"
#include "ps/net/resolve.h"
#include "ps/net/socket.h"
#include "ps/wire/messages.h"

namespace ps::net {
namespace {

using namespace std::chrono_literals;
using wire::FrameHeader;
using wire::MessageType;

const std::string kSecret = "a secret of this job, 32 bytes..";
constexpr wire::Identity kIdentity{3, 0xabcdef0123456789ull};

SteadyTime In(Duration duration) { return std::chrono::steady_clock::now() + duration; }

template <typename Condition>
bool Eventually(Condition condition, Duration limit = 10s) {
  for (SteadyTime end = In(limit); std::chrono::steady_clock::now() < end;) {
    if (condition()) return true;
    std::this_thread::sleep_for(2ms);
  }
  return condition();
}

// kPull: its payload comes back. kPush: a reply of `sequence` bytes. kControl: its text comes back.
class EchoHandler : public FrameHandler {
 public:
  void OnFrame(const ConnectionPtr& connection, Frame frame) override {
    ++frames;
    EXPECT_TRUE(connection->context().get_executor().running_in_this_thread());
    last_payload_address = reinterpret_cast<std::uintptr_t>(frame.payload.data());
    {
      std::lock_guard lock(mutex);
      last = connection;
      context_of[connection->id()] = connection->context_index();
    }
    FrameHeader reply;
    reply.request_id = frame.header.request_id;
    reply.sequence = frame.header.sequence;
    if (frame.header.type == MessageType::kPush) {
      reply.type = MessageType::kPullReply;
      Buffer payload(frame.header.sequence);
      if (payload.size() > 0) std::memset(payload.data(), 0x5a, payload.size());
      return Answer(connection, reply, std::move(payload));
    }
    reply.type = frame.header.type == MessageType::kControl ? MessageType::kControlReply
                                                            : MessageType::kPullReply;
    Answer(connection, reply, std::move(frame.payload));
  }
  void OnClose(const ConnectionPtr& connection, const Status& why) override {
    EXPECT_TRUE(connection->context().get_executor().running_in_this_thread());
    EXPECT_FALSE(why.ok());
    ++closes;
  }

  void Answer(const ConnectionPtr& connection, FrameHeader reply, Buffer payload) {
    if (!answer_from_another_thread) return connection->Send(reply, std::move(payload));
    std::thread([connection, reply, payload = std::move(payload)]() mutable {
      connection->Send(reply, std::move(payload));
    }).join();
  }

  std::atomic<int> frames{0};
  std::atomic<int> closes{0};
  std::atomic<std::uintptr_t> last_payload_address{0};
  std::atomic<bool> answer_from_another_thread{false};
  std::mutex mutex;
  ConnectionPtr last;
  std::map<std::uint64_t, int> context_of;
};

class TestServer {
 public:
  explicit TestServer(std::function<void(ListenerOptions*)> change = {}, int contexts = 2) {
    char directory[] = "/tmp/ps_net_test_XXXXXX";
    directory_ = mkdtemp(directory);
    options.host = "127.0.0.1";
    options.unix_path = directory_ + "/s";
    options.secret = kSecret;
    options.identity = kIdentity;
    options.handshake_timeout_ms = 5'000;
    if (change) change(&options);
    for (int i = 0; i < contexts; ++i) contexts_.push_back(std::make_unique<asio::io_context>(1));
    std::vector<asio::io_context*> pointers;
    for (auto& context : contexts_) {
      pointers.push_back(context.get());
      guards_.emplace_back(context->get_executor());
      threads_.emplace_back([&context = *context] { context.run(); });
    }
    auto started = Listener::Start(options, pointers, &handler);
    EXPECT_TRUE(started.ok()) << started.status().ToString();
    if (started.ok()) listener = std::move(started).value();
  }
  ~TestServer() {
    listener.reset();
    handler.last.reset();
    StopContexts();
    std::filesystem::remove_all(directory_);
  }
  void StopContexts() {
    for (auto& context : contexts_) context->stop();
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }

  ConnectOptions Options(Transport transport) const {
    ConnectOptions connect;
    connect.endpoint = {"127.0.0.1", listener->port(), options.unix_path};
    connect.transport = transport;
    connect.secret = kSecret;
    connect.expected = kIdentity;
    return connect;
  }
  std::unique_ptr<ClientConnection> Connect(Transport transport) const {
    auto connection = ClientConnection::Connect(Options(transport), In(10s));
    EXPECT_TRUE(connection.ok()) << connection.status().ToString();
    return connection.ok() ? std::move(connection).value() : nullptr;
  }
  // A bare socket, as a stranger has it.
  Fd RawSocket(bool over_unix) const {
    auto address =
        over_unix ? UnixAddress(options.unix_path)
                  : Result<SocketAddress>((*Resolve("127.0.0.1", listener->port(), In(10s)))[0]);
    Fd fd(socket(address->family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    timeval limit{10, 0};
    setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    EXPECT_EQ(connect(fd.get(), address->get(), address->bytes), 0) << strerror(errno);
    return fd;
  }

  ListenerOptions options;
  EchoHandler handler;
  std::unique_ptr<Listener> listener;

 private:
  std::string directory_;
  std::vector<std::unique_ptr<asio::io_context>> contexts_;
  std::vector<asio::executor_work_guard<asio::io_context::executor_type>> guards_;
  std::vector<std::thread> threads_;
};

std::vector<std::byte> Pattern(std::size_t bytes, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> out(bytes);
  for (std::byte& b : out) b = static_cast<std::byte>(random());
  return out;
}

FrameHeader Request(MessageType type, std::uint64_t id, std::uint64_t sequence = 0) {
  FrameHeader header;
  header.type = type;
  header.request_id = id;
  header.sequence = sequence;
  return header;
}

Status SendOne(ClientConnection* connection, FrameHeader header, std::span<const std::byte> payload,
               Duration limit = 20s) {
  return connection->SendFrame(header, std::span(&payload, 1), In(limit));
}

// True when the peer has closed: end of stream or reset, whatever bytes come before it.
bool IsClosed(int fd) {
  char bytes[4'096];
  ssize_t got;
  while ((got = recv(fd, bytes, sizeof(bytes), 0)) > 0) {
  }
  return got == 0 || errno == ECONNRESET || errno == EPIPE;
}

class Connections : public testing::TestWithParam<Transport> {
 protected:
  bool over_unix() const { return GetParam() == Transport::kUnix; }
};
INSTANTIATE_TEST_SUITE_P(Both, Connections, testing::Values(Transport::kTcp, Transport::kUnix),
                         [](auto& test) {
                           return test.param == Transport::kTcp ? std::string("Tcp") : "Unix";
                         });

// --- the handshake

TEST_P(Connections, HandshakeProvesWhoAnswers) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  ASSERT_TRUE(connection);
  EXPECT_EQ(connection->peer(), kIdentity);
  EXPECT_EQ(connection->over_unix(), over_unix());
  EXPECT_EQ(*connection->Control("{\"op\":\"x\"}", In(10s)), "{\"op\":\"x\"}");
  EXPECT_EQ(server.listener->Stats().authentication_failures_total, 0u);
  EXPECT_EQ(server.listener->Stats().connections_open, 1u);
}

TEST_P(Connections, WrongSecretIsAnAuthenticationErrorThatNamesTheServer) {
  TestServer server;
  ConnectOptions options = server.Options(GetParam());
  options.secret[0] ^= 1;
  Status status = ClientConnection::Connect(options, In(10s)).status();
  EXPECT_EQ(status.code(), StatusCode::kAuthentication) << status.ToString();
  EXPECT_NE(status.message().find("server 3 at "), std::string::npos) << status.message();
  EXPECT_TRUE(
      Eventually([&] { return server.listener->Stats().authentication_failures_total == 1; }));
}

TEST_P(Connections, RestartedServerIsNotTakenForTheOldOne) {
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

TEST_P(Connections, ShortSecretIsRefusedOnBothSides) {
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

std::string FrameText(MessageType type, const std::string& payload, bool checksummed = true) {
  FrameHeader header;
  header.type = type;
  header.payload_bytes = header.raw_bytes = static_cast<std::uint32_t>(payload.size());
  if (checksummed) {
    header.flags = wire::kChecksummed;
    header.payload_checksum =
        wire::PayloadChecksum(std::as_bytes(std::span(payload.data(), payload.size())));
  }
  std::array<std::byte, wire::kFrameHeaderBytes> head;
  wire::EncodeHeader(header, head);
  return std::string(reinterpret_cast<char*>(head.data()), head.size()) + payload;
}

TEST_P(Connections, StrangersGetNothingAndHurtNobody) {
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

TEST_P(Connections, RecordedHandshakeIsOfNoUseASecondTime) {
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

TEST_P(Connections, SilentAndSlowStrangersAreClosedInTime) {
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

TEST_P(Connections, ManyStrangersDoNotLockOutAFriend) {
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

TEST_P(Connections, OneConnectionTooManyIsToldSo) {
  TestServer server([](ListenerOptions* options) { options->connections_max = 1; });
  auto first = server.Connect(GetParam());
  Status status = ClientConnection::Connect(server.Options(GetParam()), In(10s)).status();
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
  EXPECT_TRUE(first->Control("{}", In(10s)).ok());
  first.reset();
  EXPECT_TRUE(Eventually([&] { return server.listener->Stats().connections_open == 0; }));
  EXPECT_TRUE(server.Connect(GetParam()));
}

// --- frames

TEST_P(Connections, FramesOfAllSizesComeBackUnchanged) {
  for (bool from_another_thread : {false, true}) {
    TestServer server;
    server.handler.answer_from_another_thread = from_another_thread;
    auto connection = server.Connect(GetParam());
    std::uint64_t id = 0;
    for (std::size_t bytes : {0u, 1u, 8u, 4'000u, 8'191u, 8'192u, 16'335u, 16'336u, 16'337u,
                              65'536u, 65'537u, (1u << 20) - 1, (1u << 20) + 1, 5'000'001u}) {
      auto payload = Pattern(bytes, bytes);
      ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPull, ++id), payload).ok());
      auto reply = connection->ReadFrame(In(20s));
      ASSERT_TRUE(reply.ok()) << reply.status().ToString();
      EXPECT_EQ(reply->header.request_id, id);
      EXPECT_TRUE(reply->payload == payload) << bytes;
      EXPECT_EQ((reply->header.flags & wire::kChecksummed) != 0, !over_unix());
      EXPECT_EQ(server.handler.last_payload_address % 8, 0u);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(reply->payload.data()) % 8, 0u);
    }
    EXPECT_TRUE(Eventually([&] {
      return server.listener->Stats().bytes_sent_total ==
             connection->bytes_received() - 48 - 80 - 48;
    }));
    EXPECT_EQ(server.listener->Stats().bytes_received_total, connection->bytes_sent() - 160);
  }
}

TEST_P(Connections, PayloadIsGatheredFromItsPartsAndScatteredIntoTheCallersMemory) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  auto payload = Pattern(300'000);
  std::span<const std::byte> whole(payload);
  std::vector<std::span<const std::byte>> parts = {whole.first(3), {}, whole.subspan(3, 200'000)};
  for (std::size_t at = 200'003; at < whole.size();) {  // more parts than one call of writev takes
    std::size_t take = std::min<std::size_t>(57, whole.size() - at);
    parts.push_back(whole.subspan(at, take));
    at += take;
  }
  ASSERT_GT(parts.size(), 1'024u);
  ASSERT_TRUE(connection->SendFrame(Request(MessageType::kPull, 9), parts, In(20s)).ok());
  auto header = connection->ReadHeader(In(20s));
  ASSERT_TRUE(header.ok());
  ASSERT_EQ(header->payload_bytes, payload.size());
  std::vector<std::byte> a(10), b(250'000), c(49'990);
  ASSERT_TRUE(connection->ReadBytes(a, In(20s)).ok());
  EXPECT_EQ(connection->ReadHeader(In(20s)).status().code(), StatusCode::kInternal);
  ASSERT_TRUE(connection->ReadBytes(b, In(20s)).ok());
  ASSERT_TRUE(connection->ReadBytes(c, In(20s)).ok());
  a.insert(a.end(), b.begin(), b.end());
  a.insert(a.end(), c.begin(), c.end());
  EXPECT_TRUE(a == payload);
  EXPECT_EQ(connection->ReadBytes(b, In(20s)).code(), StatusCode::kInternal) << "nothing is left";
}

TEST_P(Connections, PipelinedFramesAreAnsweredInOrder) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  constexpr std::uint64_t kFrames = 500;
  for (std::uint64_t i = 0; i < kFrames; ++i) {
    auto payload = Pattern(i % 7 * 100, i);
    ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPull, i), payload).ok());
  }
  for (std::uint64_t i = 0; i < kFrames; ++i) {
    auto reply = connection->ReadFrame(In(20s));
    ASSERT_TRUE(reply.ok());
    ASSERT_EQ(reply->header.request_id, i);
    ASSERT_TRUE(reply->payload == Pattern(i % 7 * 100, i));
  }
}

TEST_P(Connections, NonBlockingStepsMoveTheSameBytes) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  auto payload = Pattern(3'000'000);
  std::span<const std::byte> part(payload);
  FrameHeader header = Request(MessageType::kPull, 5);
  connection->CompleteHeader(&header, std::span(&part, 1));
  std::vector<std::byte> out(wire::kFrameHeaderBytes);
  wire::EncodeHeader(header, std::span<std::byte, 48>(out.data(), 48));
  out.insert(out.end(), payload.begin(), payload.end());
  std::vector<std::byte> in(out.size());
  std::size_t sent = 0;
  std::size_t got = 0;
  for (SteadyTime end = In(20s); got < in.size() && std::chrono::steady_clock::now() < end;) {
    if (sent < out.size()) {
      std::span<const std::byte> rest = std::span<const std::byte>(out).subspan(sent);
      auto moved = connection->WriteSome(std::span(&rest, 1));
      ASSERT_TRUE(moved.ok());
      sent += *moved;
    }
    auto moved = connection->ReadSome(std::span(in).subspan(got));
    ASSERT_TRUE(moved.ok()) << moved.status().ToString();
    got += *moved;
  }
  ASSERT_EQ(got, in.size());
  auto reply = wire::DecodeHeader(std::span<const std::byte, 48>(in.data(), 48), 1 << 28);
  ASSERT_TRUE(reply.ok());
  EXPECT_TRUE(wire::CheckPayload(*reply, std::span(in).subspan(48)).ok());
  EXPECT_TRUE(std::equal(payload.begin(), payload.end(), in.begin() + 48));
}

TEST_P(Connections, FrameInSingleBytesArrivesWhole) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  std::string frame = FrameText(MessageType::kControl, "{\"op\":\"slow\"}");
  for (char byte : frame) {
    ASSERT_EQ(send(connection->fd(), &byte, 1, MSG_NOSIGNAL), 1);
    std::this_thread::sleep_for(200us);
  }
  auto reply = connection->ReadFrame(In(10s));
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->header.type, MessageType::kControlReply);
}

TEST(Compression, ShrinksBothWaysOverTcpOnly) {
  for (auto compression : {wire::Compression::kLz4, wire::Compression::kZstd}) {
    TestServer server([&](ListenerOptions* options) { options->compression = compression; });
    for (Transport transport : {Transport::kTcp, Transport::kUnix}) {
      ConnectOptions options = server.Options(transport);
      options.compression = compression;
      auto connection = std::move(ClientConnection::Connect(options, In(10s))).value();
      std::vector<std::byte> payload(1'000'000, std::byte{7});
      std::uint64_t before = connection->bytes_sent();
      ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPull, 1), payload).ok());
      auto reply = connection->ReadFrame(In(10s));
      ASSERT_TRUE(reply.ok()) << reply.status().ToString();
      EXPECT_TRUE(reply->payload == payload);
      bool shrunk = connection->bytes_sent() - before < 100'000;
      EXPECT_EQ(shrunk, transport == Transport::kTcp);
      EXPECT_EQ(reply->header.payload_bytes < 100'000, transport == Transport::kTcp);
    }
  }
}

// --- bad frames

TEST_P(Connections, BadFrameClosesItsConnectionAndNoOther) {
  TestServer server;
  auto good = server.Connect(GetParam());
  std::string control = FrameText(MessageType::kControl, "{\"op\":1}");
  std::string flipped_header = control;
  flipped_header[9] ^= 4;
  std::string flipped_payload = control;
  flipped_payload.back() ^= 4;
  std::string bad[] = {flipped_header, flipped_payload, "not a frame at all" + std::string(64, 0),
                       FrameText(MessageType::kPullReply, "12345678"),
                       FrameText(MessageType::kHello, std::string(32, 'x'))};
  std::uint64_t counted = 0;
  for (const std::string& bytes : bad) {
    auto connection = server.Connect(GetParam());
    // A good frame before it is answered all the same.
    std::string both = control + bytes;
    ASSERT_EQ(send(connection->fd(), both.data(), both.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(both.size()));
    EXPECT_TRUE(connection->ReadFrame(In(10s)).ok());
    EXPECT_EQ(connection->ReadFrame(In(10s)).status().code(), StatusCode::kConnection);
    EXPECT_EQ(server.listener->Stats().bad_frames_total, ++counted);
  }
  EXPECT_TRUE(good->Control("{}", In(10s)).ok());
  EXPECT_TRUE(Eventually([&] { return server.handler.closes == static_cast<int>(counted); }));
}

TEST_P(Connections, OversizeFrameIsRefusedBeforeItsPayloadComes) {
  TestServer server([](ListenerOptions* options) { options->payload_bytes_max = 100'000; });
  ConnectOptions options = server.Options(GetParam());
  auto big = Pattern(100'001);
  {
    auto connection = server.Connect(GetParam());
    ASSERT_TRUE(
        SendOne(connection.get(), Request(MessageType::kPull, 1), std::span(big).first(100'000))
            .ok());
    EXPECT_TRUE(connection->ReadFrame(In(10s)).ok()) << "the limit itself is allowed";
    FrameHeader header = Request(MessageType::kPull, 2);
    header.payload_bytes = header.raw_bytes = 100'001;
    std::array<std::byte, 48> head;
    wire::EncodeHeader(header, head);
    ASSERT_EQ(send(connection->fd(), head.data(), head.size(), MSG_NOSIGNAL), 48);
    EXPECT_EQ(connection->ReadFrame(In(10s)).status().code(), StatusCode::kConnection);
    EXPECT_EQ(server.listener->Stats().bad_frames_total, 1u);
  }
  options.payload_bytes_max = 100'000;
  auto connection = std::move(ClientConnection::Connect(options, In(10s))).value();
  Status status = SendOne(connection.get(), Request(MessageType::kPull, 1), big);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(connection->Control("{}", In(10s)).ok()) << "nothing was sent";
  // A reply beyond the client's limit.
  ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPush, 2, 100'001), {}).ok());
  EXPECT_EQ(connection->ReadFrame(In(10s)).status().code(), StatusCode::kDataCorruption);
}

TEST_P(Connections, AnnouncedButUnsentPayloadsTakeNoMemory) {
  TestServer server;
  std::vector<std::unique_ptr<ClientConnection>> connections;
  auto resident = [] {
    std::ifstream statm("/proc/self/statm");
    std::size_t total, pages;
    statm >> total >> pages;
    return pages * 4'096;
  };
  std::size_t before = resident();
  for (int i = 0; i < 16; ++i) {
    connections.push_back(server.Connect(GetParam()));
    FrameHeader header = Request(MessageType::kPush, 1);
    header.payload_bytes = header.raw_bytes = limits::kFramePayloadBytesMax;
    std::array<std::byte, 48> head;
    wire::EncodeHeader(header, head);
    ASSERT_EQ(send(connections.back()->fd(), head.data(), head.size(), MSG_NOSIGNAL), 48);
  }
  EXPECT_TRUE(Eventually([&] { return server.listener->Stats().bytes_received_total >= 16 * 48; }));
  EXPECT_LT(resident(), before + (64u << 20)) << "4 GiB were announced";
}

TEST_P(Connections, PeerThatClosesAmidAFrameIsForgotten) {
  TestServer server;
  for (std::size_t cut : {1u, 47u, 48u, 50u}) {
    auto connection = server.Connect(GetParam());
    std::string frame = FrameText(MessageType::kControl, "{\"op\":1}");
    ASSERT_EQ(send(connection->fd(), frame.data(), cut, MSG_NOSIGNAL), static_cast<ssize_t>(cut));
  }
  EXPECT_TRUE(Eventually([&] { return server.handler.closes == 4; }));
  EXPECT_EQ(server.listener->Stats().connections_open, 0u);
  EXPECT_EQ(server.listener->Stats().bad_frames_total, 0u);
  EXPECT_EQ(server.handler.frames, 0);
}

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

TEST_P(Connections, DeadlineHoldsWhileWaitingForAReply) {
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

TEST_P(Connections, DeadlineHoldsWhileThePeerDoesNotRead) {
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

// --- back-pressure

TEST_P(Connections, RepliesThatNobodyReadsStopTheReadingUntilTheyAreRead) {
  constexpr std::uint64_t kReplyBytes = 1 << 20;
  constexpr int kRequests = 60;
  TestServer server([&](ListenerOptions* options) { options->unsent_bytes_max = 4 * kReplyBytes; });
  auto connection = server.Connect(GetParam());
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPush, i, kReplyBytes), {}).ok());
  }
  EXPECT_TRUE(Eventually([&] { return server.handler.frames >= 5; }));
  std::this_thread::sleep_for(100ms);
  EXPECT_LT(server.handler.frames, 40) << "4 MiB may wait, and the socket holds some";
  for (int i = 0; i < kRequests; ++i) {
    auto reply = connection->ReadFrame(In(20s));
    ASSERT_TRUE(reply.ok()) << reply.status().ToString();
    ASSERT_EQ(reply->header.request_id, static_cast<std::uint64_t>(i));
    ASSERT_EQ(reply->payload.size(), kReplyBytes);
  }
  EXPECT_EQ(server.handler.frames, kRequests);
}

// --- the listener

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

TEST_P(Connections, AreDealtOutOverTheContextsInTurn) {
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

TEST_P(Connections, ManyAtOnceAreAllServed) {
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

TEST_P(Connections, StopWhileBusyClosesEverything) {
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

TEST_P(Connections, ListenerMayGoAfterItsContextsHaveStopped) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  ASSERT_TRUE(connection->Control("{}", In(10s)).ok());
  Fd stranger = server.RawSocket(over_unix());
  server.StopContexts();
  server.listener.reset();
  EXPECT_FALSE(connection->Control("{}", In(10s)).ok());
  EXPECT_EQ(server.handler.closes, 0) << "no thread is left to call it on";
}

TEST_P(Connections, SendAndCloseFromOtherThreadsAreSafeAtAnyTime) {
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
