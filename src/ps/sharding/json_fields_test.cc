#include "ps/sharding/json_fields.h"

#include <gtest/gtest.h>

#include "ps/base/limits.h"

namespace ps::sharding {
namespace {

std::string Nested(std::size_t depth) {
  std::string text = "{\"a\":";
  for (std::size_t i = 1; i < depth; ++i) text += "[";
  for (std::size_t i = 1; i < depth; ++i) text += "]";
  return depth == 1 ? "{}" : text + "}";
}

TEST(ParseObject, NestingIsTakenUpToTheLimitAndRefusedBeyond) {
  EXPECT_TRUE(ParseObject(Nested(limits::kJsonDepthMax)).ok());
  EXPECT_EQ(ParseObject(Nested(limits::kJsonDepthMax + 1)).status().code(),
            StatusCode::kDataCorruption);
}

TEST(ParseObject, AMillionLevelsAreRefusedAndTakeNoStack) {
  EXPECT_FALSE(ParseObject(Nested(1'000'000)).ok());
  EXPECT_FALSE(ParseObject("{\"a\":" + std::string(1'000'000, '[')).ok());
}

TEST(ParseObject, BracketsInsideStringsAreNoLevels) {
  std::string text = R"({"a":")" + std::string(1'000, '[') + R"(\"{{{","b":[]})";
  Result<Json> json = ParseObject(text);
  ASSERT_TRUE(json.ok()) << json.status().ToString();
  EXPECT_EQ((*json)["a"].get<std::string>().size(), 1'004u);
}

TEST(ParseObject, WhatIsNotOneObjectIsRefused) {
  for (const char* text : {"", "{", "[]", "1", "{} {}", R"({"a":})", R"({"a":"\"})"}) {
    EXPECT_EQ(ParseObject(text).status().code(), StatusCode::kDataCorruption) << text;
  }
}

}  // namespace
}  // namespace ps::sharding
