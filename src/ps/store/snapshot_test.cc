#include "ps/store/snapshot.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>

namespace ps::store {
namespace {

TEST(BlockPoolTest, MemoryOfABlockServesTheNextOfAboutItsSize) {
  auto pool = std::make_shared<BlockPool>(1 << 20);
  const RowShape shape{.dim = 4, .states = {}};
  const char* first = RowBlock(shape, 1'000, pool).column(RowBlock::kKey);
  EXPECT_EQ(RowBlock(shape, 1'050, pool).column(RowBlock::kKey), first);
  EXPECT_NE(RowBlock(shape, 10, pool).column(RowBlock::kKey), first);  // far smaller
  const RowBlock one(shape, 1'000, pool);
  const RowBlock other(shape, 1'000, pool);
  EXPECT_EQ(one.column(RowBlock::kKey), first);
  EXPECT_NE(other.column(RowBlock::kKey), first);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(other.column(RowBlock::kKey)) % 64, 0u);
}

TEST(BlockPoolTest, KeepsNoMoreThanItsBound) {
  BlockPool pool(3'000);
  const BlockPool::Memory first = pool.Take(1'024);
  const BlockPool::Memory second = pool.Take(1'024);
  const BlockPool::Memory third = pool.Take(1'024);
  for (const BlockPool::Memory& memory : {first, second, third}) pool.Give(memory);
  EXPECT_EQ(pool.Take(1'024).start, second.start);  // the third went back to the system
  pool.Give(second);
}

}  // namespace
}  // namespace ps::store
