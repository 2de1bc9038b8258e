#include "ps/coordinator/barriers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ps::coordinator {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

// (line, outcome) of an answer.
using Told = std::pair<std::uint64_t, StatusCode>;

class BarriersTest : public ::testing::Test {
 protected:
  BarriersTest() { EXPECT_TRUE(barriers_.Create("b", 2).ok()); }

  Status Enter(const std::string& member, std::uint64_t line, const std::string& attempt = "",
               Duration timeout = seconds(60)) {
    Barriers::Entry entry{member, attempt.empty() ? member + std::to_string(line) : attempt,
                          timeout};
    return barriers_.Enter("b", entry, {line, 1}, now_);
  }
  Status Wait(std::uint64_t line, Duration timeout = seconds(60)) {
    return barriers_.Wait("b", timeout, {line, 1}, now_);
  }
  void End(std::uint64_t line) { barriers_.LineEnded(line, now_); }
  void After(Duration time) {
    now_ += time;
    barriers_.Advance(now_);
  }
  std::vector<Told> Answers() {
    std::vector<Told> told;
    for (const auto& answer : barriers_.TakeAnswers()) {
      told.emplace_back(answer.waiter.line, answer.status.code());
      last_ = answer.status.message();
    }
    return told;
  }

  static constexpr StatusCode kOk = StatusCode::kOk;
  static constexpr std::uint64_t kDriver = 100;
  SteadyTime now_{std::chrono::hours(1)};
  Barriers barriers_;
  std::string last_;
};

TEST_F(BarriersTest, MembersWaitForTheReleaseAndTheDriverForTheMembers) {
  EXPECT_TRUE(Enter("a", 1).ok());
  EXPECT_TRUE(Wait(kDriver).ok());
  EXPECT_THAT(Answers(), IsEmpty());
  EXPECT_TRUE(Enter("b", 2).ok());
  EXPECT_THAT(Answers(), ElementsAre(Pair(kDriver, kOk)));
  EXPECT_TRUE(Wait(kDriver).ok());
  EXPECT_THAT(Answers(), ElementsAre(Pair(kDriver, kOk))) << "all are in already";
  EXPECT_TRUE(barriers_.Release("b").ok());
  EXPECT_THAT(Answers(), UnorderedElementsAre(Pair(1, kOk), Pair(2, kOk)));
}

TEST_F(BarriersTest, AfterAReleaseTheNameStandsForTheNextRound) {
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(Enter("a", 1, "a" + std::to_string(round)).ok());
    EXPECT_TRUE(Wait(kDriver).ok());
    EXPECT_THAT(Answers(), IsEmpty()) << "those of the last round do not count";
    EXPECT_TRUE(Enter("b", 2, "b" + std::to_string(round)).ok());
    EXPECT_TRUE(barriers_.Release("b").ok());
    EXPECT_EQ(Answers().size(), 3u);
  }
}

TEST_F(BarriersTest, AMemberThatEntersAgainCountsOnceAndBothItsCallsAreReleased) {
  EXPECT_TRUE(Enter("a", 1).ok());
  EXPECT_TRUE(Enter("a", 2).ok());
  EXPECT_TRUE(Wait(kDriver).ok());
  EXPECT_THAT(Answers(), IsEmpty());
  EXPECT_TRUE(Enter("b", 3).ok());
  EXPECT_TRUE(barriers_.Release("b").ok());
  EXPECT_THAT(Answers(),
              UnorderedElementsAre(Pair(kDriver, kOk), Pair(1, kOk), Pair(2, kOk), Pair(3, kOk)));
}

TEST_F(BarriersTest, OneMemberTooManyIsRefused) {
  EXPECT_TRUE(Enter("a", 1).ok());
  EXPECT_TRUE(Enter("b", 2).ok());
  Status refused = Enter("c", 3);
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.message(), AllOf(HasSubstr("'c'"), HasSubstr("one too many")));
  EXPECT_TRUE(Enter("b", 4).ok()) << "the others may still enter again";
  barriers_.TakeAnswers();
  EXPECT_TRUE(barriers_.Release("b").ok());
  EXPECT_EQ(Answers().size(), 3u) << "the refused one has no wait";
}

TEST_F(BarriersTest, AWaitThatRunsOutOfTimeLeaves) {
  EXPECT_TRUE(Enter("a", 1, "", seconds(10)).ok());
  EXPECT_TRUE(Wait(kDriver, seconds(20)).ok());
  EXPECT_EQ(barriers_.next_due(), now_ + seconds(10));
  After(seconds(10) - milliseconds(1));
  EXPECT_THAT(Answers(), IsEmpty());
  After(milliseconds(1));
  EXPECT_THAT(Answers(), ElementsAre(Pair(1, StatusCode::kTimeout)));
  EXPECT_TRUE(Enter("b", 2).ok());
  EXPECT_THAT(Answers(), IsEmpty()) << "the one that left does not count";
  After(seconds(10));
  EXPECT_THAT(Answers(), ElementsAre(Pair(kDriver, StatusCode::kTimeout)));
  EXPECT_THAT(last_, HasSubstr("1 of 2"));
  EXPECT_TRUE(Enter("c", 3).ok()) << "its place is free";
}

TEST_F(BarriersTest, AMemberStaysWhileOneOfItsWaitsDoes) {
  EXPECT_TRUE(Enter("a", 1, "", seconds(1)).ok());
  EXPECT_TRUE(Enter("a", 2).ok());
  After(seconds(2));
  EXPECT_THAT(Answers(), ElementsAre(Pair(1, StatusCode::kTimeout)));
  EXPECT_TRUE(Enter("b", 3).ok());
  EXPECT_TRUE(Wait(kDriver).ok());
  EXPECT_THAT(Answers(), ElementsAre(Pair(kDriver, kOk)));
}

TEST_F(BarriersTest, AMemberThatDiedFreesTheOthersAndTheDriverWithinTenSeconds) {
  EXPECT_TRUE(barriers_.Create("b", 2).ok());
  EXPECT_TRUE(Enter("a", 1).ok());
  EXPECT_TRUE(Enter("b", 2).ok());
  EXPECT_TRUE(Wait(kDriver).ok());
  Answers();
  End(2);
  EXPECT_EQ(barriers_.next_due(), now_ + Barriers::kRejoinTime);
  After(Barriers::kRejoinTime - milliseconds(1));
  EXPECT_THAT(Answers(), IsEmpty());
  After(milliseconds(1));
  EXPECT_THAT(Answers(), ElementsAre(Pair(1, StatusCode::kClosed)));
  EXPECT_THAT(last_, AllOf(HasSubstr("'b' died"), HasSubstr("next")));
  EXPECT_LT(Barriers::kRejoinTime, seconds(10));
}

TEST_F(BarriersTest, TheDriverHearsOnceOfARoundThatEndedBeforeItWaited) {
  EXPECT_TRUE(Enter("a", 1).ok());
  End(1);
  After(Barriers::kRejoinTime);
  EXPECT_TRUE(Wait(kDriver).ok());
  EXPECT_THAT(Answers(), ElementsAre(Pair(kDriver, StatusCode::kClosed)));
  EXPECT_TRUE(Wait(kDriver).ok());
  EXPECT_THAT(Answers(), IsEmpty());
  EXPECT_TRUE(Enter("a", 2).ok());
  EXPECT_TRUE(Enter("b", 3).ok());
  EXPECT_THAT(Answers(), ElementsAre(Pair(kDriver, kOk))) << "the next round is like any other";
}

TEST_F(BarriersTest, ADriverThatWaitsHearsThatAMemberDied) {
  EXPECT_TRUE(Wait(kDriver).ok());
  EXPECT_TRUE(Enter("a", 1).ok());
  End(1);
  After(Barriers::kRejoinTime);
  EXPECT_THAT(Answers(), ElementsAre(Pair(kDriver, StatusCode::kClosed)));
  EXPECT_TRUE(Wait(kDriver).ok());
  EXPECT_THAT(Answers(), IsEmpty());
}

TEST_F(BarriersTest, AConnectionThatIsMadeAnewKeepsItsPlaceAndItsDeadline) {
  EXPECT_TRUE(Enter("a", 1, "call", seconds(8)).ok());
  End(1);
  After(seconds(4));
  EXPECT_TRUE(Enter("a", 2, "call", seconds(8)).ok());
  After(seconds(2));
  EXPECT_THAT(Answers(), IsEmpty()) << "it is alive";
  After(seconds(2));
  EXPECT_THAT(Answers(), ElementsAre(Pair(2, StatusCode::kTimeout)));
}

TEST_F(BarriersTest, TheDriverIsNotToldThatAllAreInWhileAConnectionIsBroken) {
  EXPECT_TRUE(Enter("a", 1, "call").ok());
  End(1);
  EXPECT_TRUE(Wait(kDriver).ok());
  EXPECT_TRUE(Enter("b", 2).ok());
  EXPECT_THAT(Answers(), IsEmpty());
  EXPECT_EQ(Enter("c", 3).code(), StatusCode::kConnection) << "its place is kept for a while";
  EXPECT_TRUE(Enter("a", 4, "call").ok());
  EXPECT_THAT(Answers(), ElementsAre(Pair(kDriver, kOk)));
}

TEST_F(BarriersTest, ATaskThatIsRunAgainTakesThePlaceOfTheAttemptThatDied) {
  EXPECT_TRUE(Enter("a", 1, "first").ok());
  EXPECT_TRUE(Enter("b", 2).ok());
  Answers();
  End(1);
  After(seconds(2));
  EXPECT_TRUE(Enter("a", 3, "second").ok());
  After(seconds(20));
  EXPECT_THAT(Answers(), IsEmpty()) << "nobody died";
  EXPECT_TRUE(barriers_.Release("b").ok());
  EXPECT_THAT(Answers(), UnorderedElementsAre(Pair(2, kOk), Pair(3, kOk)));
}

TEST_F(BarriersTest, ACallWhoseAnswerWasLostGetsItAgainAndDoesNotEnterTheNextRound) {
  EXPECT_TRUE(Enter("a", 1, "call").ok());
  End(1);
  EXPECT_TRUE(barriers_.Release("b").ok());
  EXPECT_THAT(Answers(), IsEmpty()) << "there is no connection to answer on";
  EXPECT_TRUE(Enter("a", 2, "call").ok());
  EXPECT_THAT(Answers(), ElementsAre(Pair(2, kOk)));
  EXPECT_TRUE(Enter("b", 3).ok());
  EXPECT_TRUE(Enter("c", 4).ok()) << "the next round has room for two";
}

TEST_F(BarriersTest, AnEarlyReleaseLetsThoseInsideGo) {
  EXPECT_TRUE(barriers_.Release("b").ok()) << "nobody is inside: nothing";
  EXPECT_TRUE(Enter("a", 1).ok());
  EXPECT_TRUE(Wait(kDriver).ok());
  EXPECT_TRUE(barriers_.Release("b").ok());
  EXPECT_THAT(Answers(), ElementsAre(Pair(1, kOk)));
  EXPECT_TRUE(Enter("a", 2).ok());
  EXPECT_TRUE(Enter("b", 3).ok());
  EXPECT_THAT(Answers(), ElementsAre(Pair(kDriver, kOk))) << "it goes on waiting for the next";
}

TEST_F(BarriersTest, UnknownNamesAndOtherSizesAreRefused) {
  Status unknown = barriers_.Enter("x", {"a", "1", seconds(1)}, {1, 1}, now_);
  EXPECT_EQ(unknown.code(), StatusCode::kNotFound);
  EXPECT_THAT(unknown.message(), AllOf(HasSubstr("'x'"), HasSubstr("'b'")));
  EXPECT_EQ(barriers_.Wait("x", seconds(1), {1, 1}, now_).code(), StatusCode::kNotFound);
  EXPECT_EQ(barriers_.Release("x").code(), StatusCode::kNotFound);
  EXPECT_TRUE(barriers_.Create("b", 2).ok()) << "the same again: nothing";
  Status other = barriers_.Create("b", 3);
  EXPECT_EQ(other.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(other.message(), AllOf(HasSubstr("for 2"), HasSubstr("3")));
}

TEST_F(BarriersTest, BoundsAreKeptAtTheirEdges) {
  EXPECT_FALSE(barriers_.Create("c", 0).ok());
  EXPECT_FALSE(barriers_.Create("c", Barriers::kMembersMax + 1).ok());
  EXPECT_FALSE(barriers_.Create("", 1).ok());
  EXPECT_FALSE(barriers_.Create(std::string(Barriers::kNameBytesMax + 1, 'x'), 1).ok());
  EXPECT_TRUE(barriers_.Create(std::string(Barriers::kNameBytesMax, 'x'), 1).ok());
  EXPECT_FALSE(Enter("", 1).ok());
  for (std::size_t i = 0; i < Barriers::kWaitsMax; ++i) EXPECT_TRUE(Enter("a", 1 + i).ok());
  EXPECT_EQ(Enter("a", 99).code(), StatusCode::kResourceExhausted);
  for (std::size_t i = 0; i < Barriers::kWaitsMax; ++i) EXPECT_TRUE(Wait(200 + i).ok());
  EXPECT_EQ(Wait(300).code(), StatusCode::kResourceExhausted);
  for (std::size_t i = 2; i < Barriers::kBarriersMax; ++i) {
    ASSERT_TRUE(barriers_.Create("n" + std::to_string(i), 1).ok());
  }
  EXPECT_EQ(barriers_.Create("one more", 1).code(), StatusCode::kResourceExhausted);
}

TEST_F(BarriersTest, TheEndOfTheClusterEndsAllWaits) {
  EXPECT_TRUE(Enter("a", 1).ok());
  EXPECT_TRUE(Wait(kDriver).ok());
  barriers_.Close(Status(StatusCode::kClosed, "the cluster is stopping"));
  EXPECT_THAT(Answers(), UnorderedElementsAre(Pair(1, StatusCode::kClosed),
                                              Pair(kDriver, StatusCode::kClosed)));
  EXPECT_EQ(Enter("b", 2).code(), StatusCode::kClosed);
  EXPECT_EQ(barriers_.Create("c", 2).code(), StatusCode::kClosed);
  EXPECT_EQ(barriers_.next_due(), std::nullopt);
}

}  // namespace
}  // namespace ps::coordinator
