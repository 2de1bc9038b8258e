#include "ps/coordinator/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ps::coordinator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class MembershipTest : public ::testing::Test {
 protected:
  Status Register(std::uint32_t id, std::uint64_t line, std::uint64_t incarnation = 1) {
    ServerRecord record;
    record.server_id = id;
    record.endpoint = {"host", 5'000, ""};
    record.incarnation = incarnation;
    return members_.Register(record, line, now_);
  }

  SteadyTime now_{std::chrono::hours(1)};
  Membership members_{3, std::chrono::seconds(60)};
};

TEST_F(MembershipTest, EachServerRegistersOnceAndAllTogetherRun) {
  EXPECT_TRUE(Register(2, 10).ok());
  EXPECT_THAT(members_.IdsMissing(), ElementsAre(0, 1));
  EXPECT_TRUE(Register(0, 11).ok());
  EXPECT_FALSE(members_.all_registered());
  EXPECT_TRUE(Register(1, 12).ok());
  EXPECT_TRUE(members_.all_registered());
  members_.MarkRunning();
  EXPECT_THAT(members_.IdsIn(ServerState::kRunning), ElementsAre(0, 1, 2));
}

TEST_F(MembershipTest, ATakenOrUnknownNumberIsRefused) {
  EXPECT_TRUE(Register(0, 10).ok());
  EXPECT_THAT(Register(0, 11, /*incarnation=*/2).message(), HasSubstr("already"));
  EXPECT_THAT(Register(3, 12).message(), HasSubstr("3 servers"));
  EXPECT_EQ(members_.Heard(11, now_), std::nullopt) << "a refused line is none";
}

TEST_F(MembershipTest, AServerThatDidNotHearTheAnswerRegistersAgain) {
  EXPECT_TRUE(Register(0, 10).ok());
  EXPECT_TRUE(Register(0, 11).ok()) << "before the old line's end is noticed";
  members_.LineEnded(10);
  EXPECT_THAT(members_.IdsWithLine(), ElementsAre(0)) << "the new line is the server's";
  EXPECT_EQ(members_.Heard(11, now_), 0u);
  members_.LineEnded(11);
  EXPECT_TRUE(Register(0, 12).ok()) << "and after it";
  EXPECT_THAT(Register(0, 13, /*incarnation=*/2).message(), HasSubstr("already"));
}

TEST_F(MembershipTest, WhileTheClusterStartsThePlaceOfAServerThatWentIsFree) {
  EXPECT_TRUE(Register(0, 10).ok());
  members_.LineEnded(10);
  EXPECT_THAT(members_.IdsMissing(), ElementsAre(0, 1, 2));
  EXPECT_THAT(members_.IdsIn(ServerState::kLost), IsEmpty());
  EXPECT_TRUE(Register(0, 11, /*incarnation=*/2).ok());
}

TEST_F(MembershipTest, ALostServerIsNotReplaced) {
  EXPECT_TRUE(Register(0, 10).ok());
  members_.MarkRunning();
  members_.LineEnded(10);
  EXPECT_THAT(members_.IdsIn(ServerState::kLost), ElementsAre(0));
  Status again = Register(0, 11, /*incarnation=*/2);
  EXPECT_EQ(again.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(again.message(), HasSubstr("not built yet"));
}

TEST_F(MembershipTest, ASilentServerIsLostOneThatIsHeardIsNot) {
  EXPECT_TRUE(Register(0, 10).ok());
  EXPECT_TRUE(Register(1, 11).ok());
  members_.MarkRunning();
  now_ += std::chrono::seconds(40);
  EXPECT_EQ(members_.Heard(10, now_), 0u);
  now_ += std::chrono::seconds(20);
  EXPECT_THAT(members_.EndSilentLines(now_), IsEmpty()) << "60 seconds: the edge";
  now_ += std::chrono::milliseconds(1);
  EXPECT_THAT(members_.EndSilentLines(now_), ElementsAre(11));
  EXPECT_THAT(members_.IdsIn(ServerState::kLost), ElementsAre(1));
  EXPECT_EQ(members_.Heard(11, now_), std::nullopt);
}

TEST_F(MembershipTest, WhileStoppingALineThatEndsIsAServerStopped) {
  EXPECT_TRUE(Register(0, 10).ok());
  members_.BeginStopping();
  EXPECT_THAT(members_.IdsWithLine(), ElementsAre(0));
  members_.LineEnded(10);
  EXPECT_THAT(members_.IdsIn(ServerState::kStopped), ElementsAre(0));
  EXPECT_THAT(members_.IdsWithLine(), IsEmpty());
  EXPECT_EQ(Register(1, 11).code(), StatusCode::kClosed);
}

}  // namespace
}  // namespace ps::coordinator
