#include "ps/base/log.h"

#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace ps {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class LogTest : public testing::Test {
 protected:
  std::vector<std::string> lines_;
  ManualClock clock_;
  Log::Sink sink_ = [this](const std::string& line) { lines_.push_back(line); };
};

TEST_F(LogTest, ALineNamesServerEventAndFields) {
  Log log("2", LogLevel::kInfo, &clock_, sink_);
  log.Write(LogLevel::kWarning, "request_refused",
            {{"table", "clicks"}, {"rows", "17"}, {"why", "no room for 3 rows"}, {"empty", ""}});
  EXPECT_THAT(lines_, ElementsAre("WARNING server=2 event=request_refused table=clicks rows=17 "
                                  "why=\"no room for 3 rows\" empty=\"\""));
}

TEST_F(LogTest, WhatAPeerSentCannotForgeALine) {
  Log log("0", LogLevel::kInfo, &clock_, sink_);
  log.Write(LogLevel::kInfo, "e", {{"name", "a\nERROR server=9 event=\"x\"\xff"}});
  ASSERT_THAT(lines_, SizeIs(1));
  EXPECT_EQ(lines_[0].find('\n'), std::string::npos);
  EXPECT_THAT(lines_[0], HasSubstr("name=\"a\\nERROR server=9 event=\\\"x\\\"\\ufffd\""));
}

TEST_F(LogTest, LowerLevelsAndOffWriteNothing) {
  Log("0", LogLevel::kWarning, &clock_, sink_).Write(LogLevel::kInfo, "e", {});
  Log("0", LogLevel::kOff, &clock_, sink_).Write(LogLevel::kError, "e", {});
  EXPECT_THAT(lines_, IsEmpty());
}

TEST_F(LogTest, AFloodIsCutOffAndCounted) {
  Log log("0", LogLevel::kInfo, &clock_, sink_);
  for (int i = 0; i < Log::kLinesPerSecondMax + 7; ++i) log.Write(LogLevel::kInfo, "e", {});
  EXPECT_THAT(lines_, SizeIs(Log::kLinesPerSecondMax));
  clock_.Advance(std::chrono::seconds(1));
  log.Write(LogLevel::kInfo, "e", {});
  EXPECT_EQ(lines_.back(), "INFO server=0 event=e lines_dropped=7");
  log.Write(LogLevel::kInfo, "e", {});
  EXPECT_EQ(lines_.back(), "INFO server=0 event=e");
}

TEST_F(LogTest, LevelsHaveNames) {
  EXPECT_EQ(ParseLogLevel("warning").value(), LogLevel::kWarning);
  EXPECT_THAT(ParseLogLevel("loud").status().message(), HasSubstr("'loud'"));
}

}  // namespace
}  // namespace ps
