// Rows and gradients that pass through memory shared with a server, against the same over TCP.
#include <gtest/gtest.h>

#include <random>

#include "ps/base/limits.h"
#include "ps/client/client.h"
#include "ps/client/request.h"
#include "ps/testing/cluster.h"

namespace ps::client {
namespace {

using ps::testing::Cluster;
using ps::testing::ClusterOptions;
using ps::testing::Table;

constexpr std::uint32_t kWideDim = 64;

ClusterOptions Options(std::uint32_t servers, std::uint32_t wide_dim = kWideDim) {
  ClusterOptions options;
  options.servers = servers;
  options.shard_threads = 2;
  options.unix_sockets = true;
  options.tables = {Table("wide", wide_dim), Table("odd", 3)};
  return options;
}

std::unique_ptr<Client> Connect(const Cluster& cluster, net::Transport transport) {
  ClientOptions options;
  for (std::uint32_t i = 0; i < cluster.server_count(); ++i) {
    options.servers.push_back({i, cluster.endpoint(i), 0});
  }
  options.secret = Cluster::Secret();
  options.transport = transport;
  auto client = Client::Connect(std::move(options));
  EXPECT_TRUE(client.ok()) << client.status().ToString();
  return std::move(client).value();
}

std::vector<Key> SomeKeys(std::size_t count, std::size_t distinct) {
  std::mt19937_64 random(5);
  std::vector<Key> keys(count);
  for (Key& key : keys) key = random() % distinct;
  return keys;
}

// Pulls rows, pushes a function of them, and returns what a client over TCP then sees.
std::vector<float> Train(net::Transport transport, std::uint32_t servers,
                         const std::vector<Key>& keys, std::uint64_t* socket_bytes,
                         std::uint32_t wide_dim = kWideDim) {
  auto cluster = Cluster::Start(Options(servers, wide_dim));
  EXPECT_TRUE(cluster.ok()) << cluster.status().ToString();
  auto client = Connect(**cluster, transport);
  std::vector<float> wide(keys.size() * wide_dim), odd(keys.size() * 3);
  for (int i = 0; i < 2; ++i) {
    RowsPull pulls[] = {{0, keys, wide.data(), true}, {1, keys, odd.data(), true}};
    EXPECT_TRUE(client->Pull(pulls, {}).ok());
    for (float& value : wide) value *= 0.25f;
    for (float& value : odd) value *= 0.25f;
    RowsPush pushes[] = {{0, keys, wide.data()}, {1, keys, odd.data()}};
    EXPECT_TRUE(client->Push(pushes, {}, {}).ok());
  }
  *socket_bytes = client->stats().bytes_sent + client->stats().bytes_received;
  std::vector<float> seen((wide_dim + 3) * keys.size());
  RowsPull last[] = {{0, keys, seen.data(), false},
                     {1, keys, seen.data() + keys.size() * wide_dim, false}};
  EXPECT_TRUE(Connect(**cluster, net::Transport::kTcp)->Pull(last, {}).ok());
  return seen;
}

TEST(SharedRows, GiveTheSameAsSocketsAndLeaveThem) {
  const std::vector<Key> distinct = SomeKeys(5'000, ~0ull), repeating = SomeKeys(5'000, 1'700);
  for (std::uint32_t servers : {1u, 2u}) {
    for (const auto* keys : {&distinct, &repeating}) {
      std::uint64_t over_tcp = 0, beside = 0;
      EXPECT_EQ(Train(net::Transport::kUnix, servers, *keys, &beside),
                Train(net::Transport::kTcp, servers, *keys, &over_tcp));
      EXPECT_LT(beside, over_tcp / 4);
    }
  }
}

TEST(SharedRows, WhatFindsNoPlaceGoesThroughTheSocket) {
  constexpr std::uint32_t kRowFloats = 1'024;
  constexpr std::size_t kBytes = kRowFloats * sizeof(float), kBeyond = 1'250;
  const std::vector<Key> keys = SomeKeys(limits::kSharedMemoryBytes / kBytes + kBeyond, ~0ull);
  std::uint64_t over_tcp = 0, beside = 0;
  EXPECT_EQ(Train(net::Transport::kUnix, 1, keys, &beside, kRowFloats),
            Train(net::Transport::kTcp, 1, keys, &over_tcp, kRowFloats));
  EXPECT_GT(beside, 4 * kBeyond * kBytes);
}

TEST(SharedRows, EachSectionHasAPlaceOfItsOwnWithinTheMemory) {
  ServerRequest request;
  RequestBuilder builder(&request, {.keys_max = 10'000, .bytes_max = kFrameBytesAimed});
  Section wide;
  wide.head.dim = kWideDim;
  builder.AddRows(wide, 0, 1'001);
  builder.AddRows(wide, 1'001, 1'010);  // too few to be worth it
  Section odd;
  odd.head.dim = 4'001;
  builder.AddRows(odd, 0, 100);
  builder.Finish();
  constexpr std::size_t kShared = 1'000'000;
  PlaceSharedRows(&request, kShared);
  std::size_t end = 0, placed = 0;
  for (const Section& section : request.sections) {
    const std::size_t bytes = std::size_t{section.head.count} * section.head.dim * sizeof(float);
    if ((section.head.flags & wire::kSharedRows) == 0) continue;
    ++placed;
    EXPECT_EQ(section.head.version % wire::kSharedRowsAlignment, 0u);
    EXPECT_GE(section.head.version, end);
    end = section.head.version + bytes;
    EXPECT_LE(end, kShared);
  }
  EXPECT_GT(placed, 1u);
  EXPECT_LT(placed, request.sections.size());

  PlaceSharedRows(&request, 0);
  for (const Section& section : request.sections) {
    EXPECT_EQ(section.head.flags & wire::kSharedRows, 0);
    EXPECT_EQ(section.head.version, 0u);
  }
}

TEST(SharedRows, PlacesOutsideTheMemoryAreRefused) {
  auto cluster = Cluster::Start(Options(1));
  ASSERT_TRUE(cluster.ok());
  auto raw = (*cluster)->Connect();
  const std::size_t last =
      limits::kSharedMemoryBytes / wire::kSharedRowsAlignment * wire::kSharedRowsAlignment;
  for (std::uint64_t place : {std::uint64_t{last}, std::uint64_t{last - 64}, std::uint64_t{32},
                              ~std::uint64_t{63}, std::uint64_t{1} << 40}) {
    for (auto type : {wire::MessageType::kPull, wire::MessageType::kPush}) {
      wire::SectionHead head;
      head.flags = wire::kSharedRows;
      head.count = 1;
      head.dim = kWideDim;
      head.version = place;
      std::vector<std::byte> payload(wire::kSectionHeadBytes + sizeof(Key));
      wire::EncodeSectionHead(head, payload.data());
      wire::FrameHeader header;
      header.type = type;
      header.request_id = raw->connection().NextRequestId();
      header.stream = type == wire::MessageType::kPush ? 9 : 0;
      header.sequence = header.stream == 0 ? 0 : header.request_id;
      const auto soon = std::chrono::steady_clock::now() + std::chrono::seconds(20);
      std::span<const std::byte> part(payload);
      ASSERT_TRUE(raw->connection().SendFrame(header, {&part, 1}, soon).ok());
      auto reply = raw->connection().ReadFrame(soon);
      ASSERT_TRUE(reply.ok()) << reply.status().ToString();
      EXPECT_EQ(reply->header.type, wire::MessageType::kError) << place;
    }
  }
  EXPECT_TRUE(raw->PullRows(1, 3, {1, 2}).ok()) << "the server lives on";
}

}  // namespace
}  // namespace ps::client
