#include "ps/net/endpoint.h"

#include <gtest/gtest.h>

namespace ps::net {
namespace {

TEST(Endpoint, NamesAndAddressesParse) {
  auto name = ParseEndpoint("host-1.example:50000");
  ASSERT_TRUE(name.ok());
  EXPECT_EQ(name->host, "host-1.example");
  EXPECT_EQ(name->port, 50'000);
  auto v6 = ParseEndpoint("[fe80::1]:65535");
  ASSERT_TRUE(v6.ok());
  EXPECT_EQ(v6->host, "fe80::1");
  EXPECT_EQ(v6->port, 65'535);
}

TEST(Endpoint, TextSurvivesParsing) {
  for (const char* text : {"localhost:1", "10.0.0.1:50000", "[::1]:80"}) {
    EXPECT_EQ(ParseEndpoint(text)->ToString(), text);
  }
}

TEST(Endpoint, AnythingElseIsRefusedByName) {
  for (const char* text :
       {"", "host", "host:", ":80", "host:0", "host:65536", "host:-1", "host:8o", "host:80 ",
        "::1:80", "[::1:80", "[]:80", "a b:80", "host:99999999999"}) {
    Status status = ParseEndpoint(text).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << text;
    EXPECT_NE(status.message().find(std::string("'") + text + "'"), std::string::npos) << text;
  }
}

TEST(Endpoint, TransportsParseByName) {
  EXPECT_EQ(*ParseTransport("auto"), Transport::kAuto);
  EXPECT_EQ(*ParseTransport("tcp"), Transport::kTcp);
  EXPECT_EQ(*ParseTransport("unix"), Transport::kUnix);
  EXPECT_EQ(ParseTransport("udp").status().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace ps::net
