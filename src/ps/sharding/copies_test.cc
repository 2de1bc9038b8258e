#include "ps/sharding/copies.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace ps::sharding {
namespace {

TEST(CopiesTest, EveryChainHasDistinctServersAndEveryServerHoldsAsManyChains) {
  for (std::uint32_t servers : {1u, 2u, 3u, 7u}) {
    for (std::uint32_t copies = 1; copies <= servers; ++copies) {
      const Copies placed{servers, copies, {}};
      for (ServerId server = 0; server < servers; ++server) {
        std::uint32_t holders = 0;
        std::uint32_t held = 0;
        for (ServerId other = 0; other < servers; ++other) {
          holders += placed.Holds(other, server);
          held += placed.Holds(server, other);
        }
        EXPECT_EQ(holders, copies);
        EXPECT_EQ(held, copies);
        EXPECT_TRUE(placed.Holds(server, server));
      }
    }
  }
}

TEST(CopiesTest, ChangesWalkTheWholeChainFromItsOwnerOn) {
  const Copies placed{5, 3, {}};
  EXPECT_EQ(placed.OwnerOf(4), 4u);
  EXPECT_EQ(placed.NextAfter(4, 4), 0u);
  EXPECT_EQ(placed.NextAfter(0, 4), 1u);
  EXPECT_EQ(placed.NextAfter(1, 4), std::nullopt);
}

TEST(CopiesTest, TheFirstSurvivorOwnsAndLostServersArePassedOver) {
  EXPECT_EQ((Copies{5, 3, {4}}).OwnerOf(4), 0u);
  EXPECT_EQ((Copies{5, 3, {0, 4}}).OwnerOf(4), 1u);
  EXPECT_EQ((Copies{5, 3, {0, 1, 4}}).OwnerOf(4), std::nullopt);
  EXPECT_EQ((Copies{5, 3, {0}}).OwnerOf(4), 4u);
  EXPECT_EQ((Copies{5, 3, {0}}).NextAfter(4, 4), 1u);
  EXPECT_EQ((Copies{5, 3, {0, 1}}).NextAfter(4, 4), std::nullopt);
  EXPECT_EQ((Copies{5, 1, {4}}).OwnerOf(4), std::nullopt);
}

TEST(CopiesTest, ReadersSpreadOverAWholeChainAndStayWhereTheyAre) {
  const Copies placed{4, 2, {}};
  std::map<ServerId, int> readers;
  for (std::uint64_t reader = 0; reader < 1'000; ++reader) {
    const auto server = placed.ReadFrom(3, reader);
    ASSERT_TRUE(server.has_value());
    EXPECT_EQ(placed.ReadFrom(3, reader), server);
    ++readers[*server];
  }
  EXPECT_EQ(readers.size(), 2u);
  EXPECT_GT(readers[3], 400);
  EXPECT_GT(readers[0], 400);
}

TEST(CopiesTest, AChainThatLacksAServerIsReadAtItsOwner) {
  for (std::uint64_t reader = 0; reader < 100; ++reader) {
    EXPECT_EQ((Copies{4, 3, {3}}).ReadFrom(3, reader), 0u);
    EXPECT_EQ((Copies{4, 3, {0}}).ReadFrom(3, reader), 3u);
    EXPECT_EQ((Copies{4, 1, {3}}).ReadFrom(3, reader), std::nullopt);
  }
}

}  // namespace
}  // namespace ps::sharding
