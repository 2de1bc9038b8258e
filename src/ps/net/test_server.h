#pragma once

// For the tests of this folder: a listener that echoes, on threads of its own, and bare peers.
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
#include <deque>
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

namespace ps::net::testing_server {

using namespace std::chrono_literals;
using wire::FrameHeader;
using wire::MessageType;

inline const std::string kSecret = "a secret of this job, 32 bytes..";
inline constexpr wire::Identity kIdentity{3, 0xabcdef0123456789ull};

inline SteadyTime In(Duration duration) { return std::chrono::steady_clock::now() + duration; }

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

  // Answers the first of the requests that were held.
  void AnswerHeld() {
    std::unique_lock lock(mutex);
    ASSERT_FALSE(held.empty());
    auto answer = std::move(held.front());
    held.pop_front();
    lock.unlock();
    answer();
  }

  void Answer(const ConnectionPtr& connection, FrameHeader reply, Buffer payload) {
    if (hold) {
      std::lock_guard lock(mutex);
      auto kept = std::make_shared<Buffer>(std::move(payload));
      held.push_back([=] { connection->Send(reply, std::move(*kept)); });
      return;
    }
    if (!answer_from_another_thread) return connection->Send(reply, std::move(payload));
    std::thread([connection, reply, payload = std::move(payload)]() mutable {
      connection->Send(reply, std::move(payload));
    }).join();
  }

  std::atomic<int> frames{0};
  std::atomic<int> closes{0};
  std::atomic<std::uintptr_t> last_payload_address{0};
  std::atomic<bool> answer_from_another_thread{false};
  std::atomic<bool> hold{false};  // requests are not answered until AnswerHeld
  std::mutex mutex;
  std::deque<std::function<void()>> held;
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
    handler.held.clear();
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

inline std::vector<std::byte> Pattern(std::size_t bytes, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> out(bytes);
  for (std::byte& b : out) b = static_cast<std::byte>(random());
  return out;
}

inline FrameHeader Request(MessageType type, std::uint64_t id, std::uint64_t sequence = 0) {
  FrameHeader header;
  header.type = type;
  header.request_id = id;
  header.sequence = sequence;
  return header;
}

inline Status SendOne(ClientConnection* connection, FrameHeader header,
                      std::span<const std::byte> payload, Duration limit = 20s) {
  return connection->SendFrame(header, std::span(&payload, 1), In(limit));
}

// True when the peer has closed: end of stream or reset, whatever bytes come before it.
inline bool IsClosed(int fd) {
  char bytes[4'096];
  ssize_t got;
  while ((got = recv(fd, bytes, sizeof(bytes), 0)) > 0) {
  }
  return got == 0 || errno == ECONNRESET || errno == EPIPE;
}

// One frame of small size, as a peer that frames by hand sends it.
inline std::string FrameText(MessageType type, const std::string& payload,
                             bool checksummed = true) {
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

}  // namespace ps::net::testing_server
