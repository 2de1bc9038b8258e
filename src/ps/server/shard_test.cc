#include "ps/server/shard.h"

#include <gtest/gtest.h>

#include <future>
#include <thread>
#include <vector>

namespace ps::server {
namespace {

TEST(Shard, WorkOfOneThreadHappensInItsOrderWhoeverDoesIt) {
  Shard shard(0);
  shard.Start();
  std::vector<int> order;  // touched within the shard only
  constexpr int kTasks = 2'000;
  for (int i = 0; i < kTasks; ++i) {
    const auto task = [&order, i] { order.push_back(i); };
    if (i % 4 != 3) {
      shard.Post(task);
      continue;
    }
    while (!shard.TryRun(task)) std::this_thread::yield();
  }
  std::promise<void> done;
  shard.Post([&done] { done.set_value(); });
  done.get_future().wait();
  ASSERT_EQ(order.size(), kTasks);
  for (int i = 0; i < kTasks; ++i) EXPECT_EQ(order[i], i);
}

TEST(Shard, TryRunDoesNothingWhileOtherWorkIsUnderWayOrWaits) {
  Shard shard(0);
  bool ran = false;
  shard.Post([] {});
  EXPECT_FALSE(shard.TryRun([&ran] { ran = true; }));  // its thread has not begun

  std::promise<void> begun, end;
  shard.Post([&begun, &end] {
    begun.set_value();
    end.get_future().wait();
  });
  shard.Start();
  begun.get_future().wait();
  EXPECT_FALSE(shard.TryRun([&ran] { ran = true; }));
  end.set_value();
  EXPECT_FALSE(ran);

  shard.StopAndJoin();
  shard.Drain();
  EXPECT_TRUE(shard.TryRun([&ran] { ran = true; }));
  EXPECT_TRUE(ran);
}

// Each of two threads does small work in the other's shard: a counter without a lock stays exact.
TEST(Shard, OneThreadAtATimeTouchesWhatAShardHolds) {
  Shard shard(0);
  shard.Start();
  std::size_t count = 0;
  constexpr std::size_t kEach = 10'000;
  const auto work = [&] {
    for (std::size_t i = 0; i < kEach; ++i) {
      const auto add = [&count] { ++count; };
      if (!shard.TryRun(add)) shard.Post(add);
    }
  };
  std::thread other(work);
  work();
  other.join();
  shard.StopAndJoin();
  shard.Drain();
  EXPECT_EQ(count, 2 * kEach);
}

}  // namespace
}  // namespace ps::server
