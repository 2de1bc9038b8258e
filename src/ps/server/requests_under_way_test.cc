#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "ps/server/server_test.h"

namespace ps::server {
namespace {

using testing::ClusterOptions;
using ::testing::HasSubstr;
using testing::Sections;

TEST(RequestsUnderWay, RepliesOnTheirWayToASlowReaderCountAsInFlight) {
  constexpr std::size_t kPulls = 60;      // of 1 MiB each
  constexpr std::size_t kServedMax = 12;  // 6 MiB may wait, and the socket holds some
  ClusterOptions options;
  options.unix_sockets = true;
  options.requests_in_flight_bytes_max = 6u << 20;
  options.tables = {testing::Table("default", 1'024)};
  auto cluster = StartCluster(options);
  auto client = cluster->Connect();
  Sections pull;
  pull.PullRows(0, 1'024, Range(0, 256));
  std::vector<std::uint64_t> ids;
  for (std::size_t i = 0; i < kPulls; ++i) {
    ids.push_back(Value(client->Send(wire::MessageType::kPull, {pull})));
  }
  auto watcher = cluster->Connect();
  // Before any is read: what has been read makes room for more.
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  auto refused = [&] { return Stats(*watcher)["refusals_total"].get<std::size_t>(); };
  while (refused() < kPulls - kServedMax && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }

  std::size_t served = 0;
  for (std::uint64_t id : ids) {
    auto sections = client->ReadPull(id, 1);
    if (sections.ok()) {
      ++served;
    } else {
      EXPECT_THAT(Refusal(sections.status(), StatusCode::kConnection), HasSubstr("busy"));
    }
  }
  EXPECT_GE(served, 4u);
  EXPECT_LE(served, kServedMax);
  EXPECT_TRUE(client->Pull({pull}).ok()) << "all is given back";
}

TEST(RequestsUnderWay, RequestsUnderWayAreBounded) {
  ClusterOptions options;
  options.message_bytes_max = 1u << 20;
  options.requests_in_flight_bytes_max = 2u << 20;
  auto cluster = StartCluster(options);
  auto client = cluster->Connect();
  auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  Sections frame = Sections().PullRows(0, kDim, Range(0, 100'000), false);  // 0.8 MB, reply 1.6 MB
  EXPECT_TRUE(client->Pull(std::vector<Sections>(3, frame)).ok()) << "large, but alone";
  Status never = client->Pull(std::vector<Sections>(45, frame)).status();
  EXPECT_THAT(Refusal(never, StatusCode::kResourceExhausted), HasSubstr("less at once"));

  // Two that begin and stop: one takes the place of large requests, one most of what is shared.
  auto begin = [&](int frames) {
    auto holder = cluster->Connect();
    wire::FrameHeader header;
    header.type = wire::MessageType::kPull;
    header.request_id = 1;
    header.flags = wire::kMore;
    std::span<const std::byte> part(frame.bytes());
    for (int i = 0; i < frames; ++i) {
      EXPECT_TRUE(holder->connection().SendFrame(header, {&part, 1}, deadline).ok());
    }
    return holder;
  };
  std::size_t frame_bytes = frame.bytes().size();
  auto received = [&] { return Stats(*client)["bytes_received_total"].get<std::size_t>(); };
  std::size_t before = received();
  auto large = begin(3);
  while (received() < before + 3 * frame_bytes) std::this_thread::yield();
  auto other = begin(2);
  while (received() < before + 5 * frame_bytes) std::this_thread::yield();
  Sections small = Sections().PullRows(0, kDim, Range(0, 60'000), false);
  EXPECT_THAT(Refusal(client->Pull({small}).status(), StatusCode::kConnection), HasSubstr("busy"));
  other.reset();  // gives back what it held
  while (!client->Pull({small}).ok() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_TRUE(client->Pull({small}).ok());
}

}  // namespace
}  // namespace ps::server
