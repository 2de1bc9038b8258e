#include "ps/server/in_flight.h"

#include <gtest/gtest.h>

#include <memory>

namespace ps::server {
namespace {

using Taken = InFlight::Taken;

TEST(InFlight, TicketsShareTheBytesAndGiveThemBack) {
  InFlight in_flight(100);
  Ticket first(&in_flight);
  EXPECT_EQ(first.TryAdd(85), Taken::kYes);
  {
    Ticket second(&in_flight);
    EXPECT_EQ(second.TryAdd(15), Taken::kYes);
    EXPECT_EQ(second.TryAdd(1), Taken::kBusy);
    EXPECT_EQ(in_flight.bytes(), 100u);
    EXPECT_EQ(in_flight.requests(), 2u);
  }
  EXPECT_EQ(in_flight.bytes(), 85u);
  EXPECT_EQ(in_flight.requests(), 1u);
  first.Release();
  EXPECT_EQ(in_flight.bytes(), 0u);
}

TEST(InFlight, OneLargeRequestAtATimeMayGoBeyond) {
  InFlight in_flight(100);
  Ticket small(&in_flight);
  EXPECT_EQ(small.TryAdd(90), Taken::kYes);
  auto large = std::make_unique<Ticket>(&in_flight);
  EXPECT_EQ(large->TryAdd(10), Taken::kYes);
  EXPECT_EQ(large->TryAdd(15), Taken::kBusy) << "25 is a quarter: not large";
  EXPECT_EQ(large->TryAdd(16), Taken::kYes);
  EXPECT_EQ(in_flight.bytes(), 90u) << "it does not count among the others";
  EXPECT_EQ(large->TryAdd(1'600 - 26), Taken::kYes);
  EXPECT_EQ(large->TryAdd(1), Taken::kNever);
  Ticket other(&in_flight);
  EXPECT_EQ(other.TryAdd(500), Taken::kBusy);
  large.reset();
  EXPECT_EQ(in_flight.bytes(), 90u);
  EXPECT_EQ(other.TryAdd(500), Taken::kYes);
}

TEST(InFlight, RequestsAreCountedToTheirLimit) {
  InFlight in_flight(100, /*requests_max=*/2);
  Ticket first(&in_flight);
  auto second = std::make_unique<Ticket>(&in_flight);
  Ticket third(&in_flight);
  EXPECT_EQ(third.TryAdd(1), Taken::kBusy);
  second.reset();
  EXPECT_EQ(first.TryAdd(1), Taken::kYes);
  EXPECT_EQ(third.TryAdd(1), Taken::kYes);
  Ticket fourth(&in_flight);
  EXPECT_EQ(third.TryAdd(1), Taken::kYes) << "what is under way goes on";
  EXPECT_EQ(fourth.TryAdd(1), Taken::kBusy);
}

}  // namespace
}  // namespace ps::server
