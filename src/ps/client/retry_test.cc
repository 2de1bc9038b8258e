// What the client does when connections break, by way of a relay that breaks them.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "ps/client/client.h"
#include "ps/testing/cluster.h"

namespace ps::client {
namespace {

using ps::testing::Cluster;
using ps::testing::ClusterOptions;

// A TCP relay before one server. Told to, it cuts a connection when so many more bytes have passed
// in one direction, or keeps connections open and moves nothing.
class Relay {
 public:
  enum class Direction { kToServer, kToClient };

  explicit Relay(int server_port) : server_port_(server_port) {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = Loopback(0);
    socklen_t size = sizeof(address);
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_, 16), 0);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~Relay() {
    is_ending_ = true;
    thread_.join();
    ::close(listener_);
  }
  int port() const { return port_; }
  void CutAfter(Direction direction, long bytes) {
    direction_ = direction;
    bytes_left_ = bytes;
  }
  void Stall(bool stalled) { is_stalled_ = stalled; }
  // The next connection made is held: it moves nothing until LetGo. The others go on.
  void HoldNext() { hold_next_ = true; }
  void LetGo() { is_holding_ = false; }
  bool is_holding() const { return is_holding_; }
  int cuts() const { return cuts_; }

 private:
  struct Pair {
    int client;
    int server;
    bool is_held;
  };
  static sockaddr_in Loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  void Run() {
    std::vector<Pair> pairs;
    while (!is_ending_) {
      std::vector<pollfd> fds = {{listener_, POLLIN, 0}};
      for (const Pair& pair : pairs) {
        bool is_held = pair.is_held && is_holding_;
        fds.push_back({is_held ? -1 : pair.client, POLLIN, 0});  // poll passes over -1
        fds.push_back({is_held ? -1 : pair.server, POLLIN, 0});
      }
      ::poll(fds.data(), is_stalled_ ? 1 : fds.size(), 10);
      if ((fds[0].revents & POLLIN) != 0) Accept(&pairs);
      if (is_stalled_) continue;
      for (std::size_t i = (fds.size() - 1) / 2; i-- > 0;) {
        bool open = true;
        if (fds[1 + 2 * i].revents != 0) open = Move(pairs[i], Direction::kToServer);
        if (open && fds[2 + 2 * i].revents != 0) open = Move(pairs[i], Direction::kToClient);
        if (open) continue;
        Close(pairs[i]);
        pairs.erase(pairs.begin() + static_cast<long>(i));
      }
    }
    for (const Pair& pair : pairs) Close(pair);
  }
  void Accept(std::vector<Pair>* pairs) {
    int client = ::accept(listener_, nullptr, nullptr);
    int server = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = Loopback(server_port_);
    EXPECT_EQ(::connect(server, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    bool is_held = hold_next_.exchange(false);
    if (is_held) is_holding_ = true;
    pairs->push_back({client, server, is_held});
  }
  bool Move(const Pair& pair, Direction direction) {
    char buffer[65'536];
    bool to_server = direction == Direction::kToServer;
    long got = ::recv(to_server ? pair.client : pair.server, buffer, sizeof(buffer), 0);
    if (got <= 0) return false;
    bool is_cut = false;
    if (bytes_left_ >= 0 && direction == direction_) {
      is_cut = got >= bytes_left_;
      if (is_cut) got = bytes_left_;
      bytes_left_ = is_cut ? -1 : bytes_left_ - got;
    }
    for (long sent = 0; sent < got;) {
      long n =
          ::send(to_server ? pair.server : pair.client, buffer + sent, got - sent, MSG_NOSIGNAL);
      if (n <= 0) return false;
      sent += n;
    }
    if (is_cut) ++cuts_;
    return !is_cut;
  }
  static void Close(const Pair& pair) {
    ::close(pair.client);
    ::close(pair.server);
  }

  const int server_port_;
  int listener_ = -1;
  int port_ = 0;
  std::thread thread_;
  std::atomic<bool> is_ending_{false};
  std::atomic<bool> is_stalled_{false};
  std::atomic<bool> hold_next_{false};
  std::atomic<bool> is_holding_{false};
  std::atomic<Direction> direction_{Direction::kToServer};
  std::atomic<long> bytes_left_{-1};
  std::atomic<int> cuts_{0};
};

class RetryTest : public ::testing::Test {
 protected:
  using Direction = Relay::Direction;
  static constexpr std::size_t kKeys = 4'000;
  static constexpr std::size_t kDim = 4;

  RetryTest() {
    ClusterOptions options;
    options.servers = 2;
    cluster_ = Cluster::Start(options).value();
    relay_ = std::make_unique<Relay>(cluster_->endpoint(1).port);
    for (Key key = 0; key < kKeys; ++key) keys_.push_back(key * 7 + 1);
    client_ = Connect(20.0);
  }
  std::unique_ptr<Client> Connect(double timeout_seconds,
                                  std::function<bool()> is_interrupted = nullptr) {
    ClientOptions options;
    options.servers = {{0, cluster_->endpoint(0), 0}, {1, {"127.0.0.1", relay_->port(), ""}, 0}};
    options.secret = Cluster::Secret();
    options.timeout_seconds = timeout_seconds;
    options.batch_size = 500;
    options.compression = wire::Compression::kNone;  // places in the stream stay where they are
    options.message_bytes_max = 4u << 20;
    options.is_interrupted = std::move(is_interrupted);
    auto client = Client::Connect(std::move(options));
    EXPECT_TRUE(client.ok()) << client.status().ToString();
    return std::move(client).value();
  }
  Status Pull(Client& client, std::vector<float>* out) {
    out->assign(kKeys * kDim, -99.0f);
    RowsPull pull{0, keys_, out->data(), true};
    return client.Pull({&pull, 1}, {});
  }
  Status Push(Client& client, float gradient) {
    std::vector<float> grads(kKeys * kDim, gradient);
    RowsPush push{0, keys_, grads.data()};
    return client.Push({&push, 1}, {}, {});
  }

  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<Relay> relay_;
  std::vector<Key> keys_;
  std::unique_ptr<Client> client_;
};

TEST_F(RetryTest, APushCutAtAnyPlaceIsAppliedOnceEverywhere) {
  std::vector<float> before, after;
  ASSERT_TRUE(Pull(*client_, &before).ok());
  float pushed = 0;
  // In the request's header, between frames, in its last bytes, and in the reply.
  for (auto [direction, bytes] : {std::pair{Direction::kToServer, 20L},
                                  {Direction::kToServer, 12'000L},
                                  {Direction::kToServer, 40'000L},
                                  {Direction::kToClient, 1L},
                                  {Direction::kToClient, 47L}}) {
    int cuts = relay_->cuts();
    relay_->CutAfter(direction, bytes);
    Status status = Push(*client_, 1.0f);
    ASSERT_TRUE(status.ok()) << status.ToString();
    ASSERT_EQ(relay_->cuts(), cuts + 1) << "the connection was not cut";
    pushed += 1.0f;
    ASSERT_TRUE(Pull(*client_, &after).ok());
    for (std::size_t i = 0; i < after.size(); ++i) {
      ASSERT_NEAR(after[i], before[i] - pushed, 1e-5) << i;
    }
  }
  EXPECT_GE(client_->stats().retries, 5u);
}

TEST_F(RetryTest, APushThatStallsWhileOtherThreadsPushOnIsAppliedAllTheSame) {
  constexpr int kOthers = 1'100;  // more than the window of numbers that the servers remember
  std::vector<float> before, after;
  ASSERT_TRUE(Pull(*client_, &before).ok());
  auto push_keys = [&](std::size_t from, std::size_t count) {
    std::vector<float> grads(count * kDim, 1.0f);
    RowsPush push{0, {keys_.data() + from, count}, grads.data()};
    return client_->Push({&push, 1}, {}, {});
  };
  relay_->HoldNext();
  relay_->CutAfter(Direction::kToServer, 20);
  Status stalled_status = Internal("not run");
  std::thread stalled([&] { stalled_status = push_keys(0, 100); });
  for (int i = 0; i < 500 && !relay_->is_holding(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_TRUE(relay_->is_holding()) << "the push did not connect anew";
  Status others = Status::Ok();
  for (int i = 0; i < kOthers && others.ok(); ++i) others = push_keys(100, 8);
  EXPECT_TRUE(others.ok()) << others.ToString();
  relay_->LetGo();
  stalled.join();
  ASSERT_TRUE(stalled_status.ok()) << stalled_status.ToString();

  ASSERT_TRUE(Pull(*client_, &after).ok());
  for (std::size_t i = 0; i < 100 * kDim; ++i) ASSERT_NEAR(after[i], before[i] - 1.0f, 1e-5) << i;
  for (std::size_t i = 100 * kDim; i < 108 * kDim; ++i) {
    ASSERT_NEAR(after[i], before[i] - kOthers, 1e-2) << i;
  }
}

TEST_F(RetryTest, APullCutInItsReplyIsRepeated) {
  std::vector<float> whole, again;
  ASSERT_TRUE(Pull(*client_, &whole).ok());
  for (long bytes : {10L, 60L, 9'000L}) {
    relay_->CutAfter(Direction::kToClient, bytes);
    Status status = Pull(*client_, &again);
    ASSERT_TRUE(status.ok()) << status.ToString();
    EXPECT_EQ(again, whole);
  }
  EXPECT_EQ(relay_->cuts(), 3);
}

TEST_F(RetryTest, AServerThatDoesNotAnswerIsATimeOutThatNamesIt) {
  auto client = Connect(0.4);
  std::vector<float> out;
  ASSERT_TRUE(Pull(*client, &out).ok());
  relay_->Stall(true);
  auto started = std::chrono::steady_clock::now();
  Status status = Pull(*client, &out);
  EXPECT_EQ(status.code(), StatusCode::kTimeout) << status.ToString();
  EXPECT_THAT(status.message(), ::testing::HasSubstr("server 1"));
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(3));
  relay_->Stall(false);
  EXPECT_TRUE(Pull(*client, &out).ok()) << "the next call makes a new connection";
}

TEST_F(RetryTest, AnInterruptEndsACallThatWaits) {
  std::atomic<bool> interrupted{false};
  auto client = Connect(60.0, [&] { return interrupted.load(); });
  std::vector<float> out;
  ASSERT_TRUE(Pull(*client, &out).ok());
  relay_->Stall(true);
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    interrupted = true;
  });
  auto started = std::chrono::steady_clock::now();
  EXPECT_EQ(Pull(*client, &out).code(), StatusCode::kClosed);
  EXPECT_LT(std::chrono::steady_clock::now() - started, std::chrono::seconds(2));
  later.join();
}

}  // namespace
}  // namespace ps::client
