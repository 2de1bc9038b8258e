// Whatever happens to the messages between a client and a server, every push counts once: with SGD
// at rate 1, unit gradients and rows that start at zero, the table holds minus the number of
// pushes.
#include <gtest/gtest.h>

#include <numeric>

#include "ps/client/client.h"
#include "ps/testing/cluster.h"
#include "ps/testing/message_proxy.h"

namespace ps::client {
namespace {

using ps::testing::Cluster;
using ps::testing::ClusterOptions;
using ps::testing::MessageProxy;
using Direction = MessageProxy::Direction;
using Fault = MessageProxy::Fault;

class Once : public ::testing::TestWithParam<std::pair<Direction, Fault>> {
 protected:
  static constexpr std::uint32_t kDim = 4;
  static constexpr std::size_t kKeys = 60;
  static constexpr std::size_t kKeysOfAFrame = 20;  // so three frames make a push

  Once() : keys_(kKeys), ones_(kKeys * kDim, 1.0f) {
    std::iota(keys_.begin(), keys_.end(), Key{1});
    ClusterOptions options;
    options.shard_threads = 2;
    options.tables = {ps::testing::Table("default", kDim)};
    options.tables[0].init = "zeros";
    auto cluster = Cluster::Start(options);
    if (!cluster.ok()) std::abort();
    cluster_ = std::move(cluster).value();
    proxy_ = std::make_unique<MessageProxy>(cluster_->server(0).port());
  }

  std::unique_ptr<Client> Connect(int port) {
    ClientOptions options;
    options.servers = {{0, {"127.0.0.1", port, ""}, cluster_->server(0).incarnation()}};
    options.secret = Cluster::Secret();
    options.timeout_seconds = 60;
    options.batch_size = kKeysOfAFrame;
    auto client = Client::Connect(options);
    EXPECT_TRUE(client.ok()) << client.status().ToString();
    return client.ok() ? std::move(client).value() : nullptr;
  }
  Status Push(Client& client) {
    RowsPush push{0, keys_, ones_.data()};
    return client.Push({&push, 1}, {}, {});
  }
  Result<std::vector<float>> Pull(Client& client) {
    std::vector<float> out(kKeys * kDim);
    RowsPull pull{0, keys_, out.data(), true};
    PS_RETURN_IF_ERROR(client.Pull({&pull, 1}, {}));
    return out;
  }

  std::vector<Key> keys_;
  std::vector<float> ones_;
  std::unique_ptr<Cluster> cluster_;
  std::unique_ptr<MessageProxy> proxy_;
};

INSTANTIATE_TEST_SUITE_P(Faults, Once,
                         ::testing::Values(std::pair{Direction::kToServer, Fault::kCutBefore},
                                           std::pair{Direction::kToServer, Fault::kCutAmid},
                                           std::pair{Direction::kToServer, Fault::kCutAfter},
                                           std::pair{Direction::kToServer, Fault::kDelay},
                                           std::pair{Direction::kToServer, Fault::kDuplicate},
                                           std::pair{Direction::kToServer, Fault::kDeliverLate},
                                           std::pair{Direction::kToClient, Fault::kCutBefore},
                                           std::pair{Direction::kToClient, Fault::kCutAmid},
                                           std::pair{Direction::kToClient, Fault::kCutAfter},
                                           std::pair{Direction::kToClient, Fault::kDelay},
                                           std::pair{Direction::kToClient, Fault::kDuplicate}));

// The fault meets every frame in turn: of a first connection's handshake, of pushes, of what a call
// sends after it was cut, of pulls.
TEST_P(Once, PushesAreCountedToTheIntegerWhateverFrameIsStruck) {
  auto [direction, fault] = GetParam();
  float pushes = 0;
  int strikes = 0;
  for (int nth = 0;; ++nth) {
    proxy_->Strike(direction, fault, nth);
    auto client = Connect(proxy_->port());
    ASSERT_NE(client, nullptr);
    for (int i = 0; i < 2; ++i) {
      Status pushed = Push(*client);
      ASSERT_TRUE(pushed.ok()) << "frame " << nth << ": " << pushed.ToString();
      ++pushes;
    }
    auto pulled = Pull(*client);
    ASSERT_TRUE(pulled.ok()) << "frame " << nth << ": " << pulled.status().ToString();
    for (float value : *pulled) ASSERT_EQ(value, -pushes) << "frame " << nth;
    if (!proxy_->TakeBack()) break;
    ++strikes;
  }
  EXPECT_GE(strikes, direction == Direction::kToServer ? 12 : 8);
  // What was delivered late has arrived by now, or arrives on a connection that is served after it.
  proxy_.reset();
  auto direct = Connect(cluster_->server(0).port());
  ASSERT_NE(direct, nullptr);
  ASSERT_TRUE(Push(*direct).ok());
  ++pushes;
  auto pulled = Pull(*direct);
  ASSERT_TRUE(pulled.ok());
  for (float value : *pulled) ASSERT_EQ(value, -pushes);
}

}  // namespace
}  // namespace ps::client
