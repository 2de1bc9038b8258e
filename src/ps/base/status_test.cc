#include "ps/base/status.h"

#include <memory>

#include <gtest/gtest.h>

namespace ps {
namespace {

Result<int> Half(int x) {
  if (x % 2 != 0) return InvalidArgument("odd: " + std::to_string(x));
  return x / 2;
}

Result<int> Quarter(int x) {
  PS_ASSIGN_OR_RETURN(int half, Half(x));
  PS_ASSIGN_OR_RETURN(int quarter, Half(half));
  return quarter;
}

Status CheckQuarter(int x) {
  PS_RETURN_IF_ERROR(Quarter(x).status());
  return Status::Ok();
}

TEST(Status, DefaultIsOk) {
  EXPECT_TRUE(Status().ok());
  EXPECT_EQ(Status().ToString(), "kOk");
}

TEST(Status, CarriesCodeAndMessage) {
  Status status = NotFound("table 'x' does not exist");
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.ToString(), "kNotFound: table 'x' does not exist");
}

TEST(Status, EachMakerGivesItsCode) {
  EXPECT_EQ(InvalidArgument("").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ConnectionError("").code(), StatusCode::kConnection);
  EXPECT_EQ(TimeoutError("").code(), StatusCode::kTimeout);
  EXPECT_EQ(ResourceExhausted("").code(), StatusCode::kResourceExhausted);
  EXPECT_EQ(DataCorruption("").code(), StatusCode::kDataCorruption);
  EXPECT_EQ(Internal("").code(), StatusCode::kInternal);
}

TEST(Status, NumbersOnTheWireNeverChange) {
  EXPECT_EQ(static_cast<int>(StatusCode::kOk), 0);
  EXPECT_EQ(static_cast<int>(StatusCode::kInvalidArgument), 1);
  EXPECT_EQ(static_cast<int>(StatusCode::kConfiguration), 2);
  EXPECT_EQ(static_cast<int>(StatusCode::kNotFound), 3);
  EXPECT_EQ(static_cast<int>(StatusCode::kConnection), 4);
  EXPECT_EQ(static_cast<int>(StatusCode::kAuthentication), 5);
  EXPECT_EQ(static_cast<int>(StatusCode::kTimeout), 6);
  EXPECT_EQ(static_cast<int>(StatusCode::kResourceExhausted), 7);
  EXPECT_EQ(static_cast<int>(StatusCode::kDataCorruption), 8);
  EXPECT_EQ(static_cast<int>(StatusCode::kStorage), 9);
  EXPECT_EQ(static_cast<int>(StatusCode::kClosed), 10);
  EXPECT_EQ(static_cast<int>(StatusCode::kInternal), 11);
}

TEST(Status, AnUnknownCodeHasAName) {
  EXPECT_FALSE(StatusCodeName(static_cast<StatusCode>(999)).empty());
}

TEST(Result, MacrosPassTheFirstErrorOn) {
  EXPECT_EQ(Quarter(12).value(), 3);
  EXPECT_EQ(Quarter(6).status().message(), "odd: 3");
  EXPECT_TRUE(CheckQuarter(4).ok());
  EXPECT_EQ(CheckQuarter(5).message(), "odd: 5");
}

TEST(Result, HoldsWhatCanOnlyBeMoved) {
  Result<std::unique_ptr<int>> result = std::make_unique<int>(7);
  std::unique_ptr<int> taken = std::move(result).value();
  EXPECT_EQ(*taken, 7);
}

}  // namespace
}  // namespace ps
