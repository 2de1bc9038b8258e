// Frames, good and bad, between a client and a listener over real sockets.
#include "ps/net/test_server.h"

namespace ps::net {
namespace {

using namespace testing_server;

class Frames : public testing::TestWithParam<Transport> {
 protected:
  bool over_unix() const { return GetParam() == Transport::kUnix; }
};
INSTANTIATE_TEST_SUITE_P(Both, Frames, testing::Values(Transport::kTcp, Transport::kUnix),
                         [](auto& test) {
                           return test.param == Transport::kTcp ? std::string("Tcp") : "Unix";
                         });

// --- frames

TEST_P(Frames, FramesOfAllSizesComeBackUnchanged) {
  for (bool from_another_thread : {false, true}) {
    TestServer server;
    server.handler.answer_from_another_thread = from_another_thread;
    auto connection = server.Connect(GetParam());
    std::uint64_t id = 0;
    for (std::size_t bytes : {0u, 1u, 8u, 4'000u, 8'191u, 8'192u, 16'335u, 16'336u, 16'337u,
                              65'536u, 65'537u, (1u << 20) - 1, (1u << 20) + 1, 5'000'001u}) {
      auto payload = Pattern(bytes, bytes);
      ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPull, ++id), payload).ok());
      auto reply = connection->ReadFrame(In(20s));
      ASSERT_TRUE(reply.ok()) << reply.status().ToString();
      EXPECT_EQ(reply->header.request_id, id);
      EXPECT_TRUE(reply->payload == payload) << bytes;
      EXPECT_EQ((reply->header.flags & wire::kChecksummed) != 0, !over_unix());
      EXPECT_EQ(server.handler.last_payload_address % 8, 0u);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(reply->payload.data()) % 8, 0u);
    }
    EXPECT_TRUE(Eventually([&] {
      return server.listener->Stats().bytes_sent_total ==
             connection->bytes_received() - 48 - 80 - 48;
    }));
    EXPECT_EQ(server.listener->Stats().bytes_received_total, connection->bytes_sent() - 160);
  }
}

TEST_P(Frames, PayloadIsGatheredFromItsPartsAndScatteredIntoTheCallersMemory) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  auto payload = Pattern(300'000);
  std::span<const std::byte> whole(payload);
  std::vector<std::span<const std::byte>> parts = {whole.first(3), {}, whole.subspan(3, 200'000)};
  for (std::size_t at = 200'003; at < whole.size();) {  // more parts than one call of writev takes
    std::size_t take = std::min<std::size_t>(57, whole.size() - at);
    parts.push_back(whole.subspan(at, take));
    at += take;
  }
  ASSERT_GT(parts.size(), 1'024u);
  ASSERT_TRUE(connection->SendFrame(Request(MessageType::kPull, 9), parts, In(20s)).ok());
  auto header = connection->ReadHeader(In(20s));
  ASSERT_TRUE(header.ok());
  ASSERT_EQ(header->payload_bytes, payload.size());
  std::vector<std::byte> a(10), b(250'000), c(49'990);
  ASSERT_TRUE(connection->ReadBytes(a, In(20s)).ok());
  EXPECT_EQ(connection->ReadHeader(In(20s)).status().code(), StatusCode::kInternal);
  ASSERT_TRUE(connection->ReadBytes(b, In(20s)).ok());
  ASSERT_TRUE(connection->ReadBytes(c, In(20s)).ok());
  a.insert(a.end(), b.begin(), b.end());
  a.insert(a.end(), c.begin(), c.end());
  EXPECT_TRUE(a == payload);
  EXPECT_EQ(connection->ReadBytes(b, In(20s)).code(), StatusCode::kInternal) << "nothing is left";
}

TEST_P(Frames, PipelinedFramesAreAnsweredInOrder) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  constexpr std::uint64_t kFrames = 500;
  for (std::uint64_t i = 0; i < kFrames; ++i) {
    auto payload = Pattern(i % 7 * 100, i);
    ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPull, i), payload).ok());
  }
  for (std::uint64_t i = 0; i < kFrames; ++i) {
    auto reply = connection->ReadFrame(In(20s));
    ASSERT_TRUE(reply.ok());
    ASSERT_EQ(reply->header.request_id, i);
    ASSERT_TRUE(reply->payload == Pattern(i % 7 * 100, i));
  }
}

TEST_P(Frames, NonBlockingStepsMoveTheSameBytes) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  auto payload = Pattern(3'000'000);
  std::span<const std::byte> part(payload);
  FrameHeader header = Request(MessageType::kPull, 5);
  connection->CompleteHeader(&header, std::span(&part, 1));
  std::vector<std::byte> out(wire::kFrameHeaderBytes);
  wire::EncodeHeader(header, std::span<std::byte, 48>(out.data(), 48));
  out.insert(out.end(), payload.begin(), payload.end());
  std::vector<std::byte> in(out.size());
  std::size_t sent = 0;
  std::size_t got = 0;
  for (SteadyTime end = In(20s); got < in.size() && std::chrono::steady_clock::now() < end;) {
    if (sent < out.size()) {
      std::span<const std::byte> rest = std::span<const std::byte>(out).subspan(sent);
      auto moved = connection->WriteSome(std::span(&rest, 1));
      ASSERT_TRUE(moved.ok());
      sent += *moved;
    }
    auto moved = connection->ReadSome(std::span(in).subspan(got));
    ASSERT_TRUE(moved.ok()) << moved.status().ToString();
    got += *moved;
  }
  ASSERT_EQ(got, in.size());
  auto reply = wire::DecodeHeader(std::span<const std::byte, 48>(in.data(), 48), 1 << 28);
  ASSERT_TRUE(reply.ok());
  EXPECT_TRUE(wire::CheckPayload(*reply, std::span(in).subspan(48)).ok());
  EXPECT_TRUE(std::equal(payload.begin(), payload.end(), in.begin() + 48));
}

TEST_P(Frames, FrameInSingleBytesArrivesWhole) {
  TestServer server;
  auto connection = server.Connect(GetParam());
  std::string frame = FrameText(MessageType::kControl, "{\"op\":\"slow\"}");
  for (char byte : frame) {
    ASSERT_EQ(send(connection->fd(), &byte, 1, MSG_NOSIGNAL), 1);
    std::this_thread::sleep_for(200us);
  }
  auto reply = connection->ReadFrame(In(10s));
  ASSERT_TRUE(reply.ok());
  EXPECT_EQ(reply->header.type, MessageType::kControlReply);
}

TEST(Compression, ShrinksBothWaysOverTcpOnly) {
  for (auto compression : {wire::Compression::kLz4, wire::Compression::kZstd}) {
    TestServer server([&](ListenerOptions* options) { options->compression = compression; });
    for (Transport transport : {Transport::kTcp, Transport::kUnix}) {
      ConnectOptions options = server.Options(transport);
      options.compression = compression;
      auto connection = std::move(ClientConnection::Connect(options, In(10s))).value();
      std::vector<std::byte> payload(1'000'000, std::byte{7});
      std::uint64_t before = connection->bytes_sent();
      ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPull, 1), payload).ok());
      auto reply = connection->ReadFrame(In(10s));
      ASSERT_TRUE(reply.ok()) << reply.status().ToString();
      EXPECT_TRUE(reply->payload == payload);
      bool shrunk = connection->bytes_sent() - before < 100'000;
      EXPECT_EQ(shrunk, transport == Transport::kTcp);
      EXPECT_EQ(reply->header.payload_bytes < 100'000, transport == Transport::kTcp);
    }
  }
}

// --- bad frames

TEST_P(Frames, BadFrameClosesItsConnectionAndNoOther) {
  TestServer server;
  auto good = server.Connect(GetParam());
  std::string control = FrameText(MessageType::kControl, "{\"op\":1}");
  std::string flipped_header = control;
  flipped_header[9] ^= 4;
  std::string flipped_payload = control;
  flipped_payload.back() ^= 4;
  std::string bad[] = {flipped_header, flipped_payload, "not a frame at all" + std::string(64, 0),
                       FrameText(MessageType::kPullReply, "12345678"),
                       FrameText(MessageType::kHello, std::string(32, 'x'))};
  std::uint64_t counted = 0;
  for (const std::string& bytes : bad) {
    auto connection = server.Connect(GetParam());
    // A good frame before it is answered all the same.
    std::string both = control + bytes;
    ASSERT_EQ(send(connection->fd(), both.data(), both.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(both.size()));
    EXPECT_TRUE(connection->ReadFrame(In(10s)).ok());
    EXPECT_EQ(connection->ReadFrame(In(10s)).status().code(), StatusCode::kConnection);
    EXPECT_EQ(server.listener->Stats().bad_frames_total, ++counted);
  }
  EXPECT_TRUE(good->Control("{}", In(10s)).ok());
  EXPECT_TRUE(Eventually([&] { return server.handler.closes == static_cast<int>(counted); }));
}

TEST_P(Frames, OversizeFrameIsRefusedBeforeItsPayloadComes) {
  TestServer server([](ListenerOptions* options) { options->payload_bytes_max = 100'000; });
  ConnectOptions options = server.Options(GetParam());
  auto big = Pattern(100'001);
  {
    auto connection = server.Connect(GetParam());
    ASSERT_TRUE(
        SendOne(connection.get(), Request(MessageType::kPull, 1), std::span(big).first(100'000))
            .ok());
    EXPECT_TRUE(connection->ReadFrame(In(10s)).ok()) << "the limit itself is allowed";
    FrameHeader header = Request(MessageType::kPull, 2);
    header.payload_bytes = header.raw_bytes = 100'001;
    std::array<std::byte, 48> head;
    wire::EncodeHeader(header, head);
    ASSERT_EQ(send(connection->fd(), head.data(), head.size(), MSG_NOSIGNAL), 48);
    EXPECT_EQ(connection->ReadFrame(In(10s)).status().code(), StatusCode::kConnection);
    EXPECT_EQ(server.listener->Stats().bad_frames_total, 1u);
  }
  options.payload_bytes_max = 100'000;
  auto connection = std::move(ClientConnection::Connect(options, In(10s))).value();
  Status status = SendOne(connection.get(), Request(MessageType::kPull, 1), big);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(connection->Control("{}", In(10s)).ok()) << "nothing was sent";
  // A reply beyond the client's limit.
  ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPush, 2, 100'001), {}).ok());
  EXPECT_EQ(connection->ReadFrame(In(10s)).status().code(), StatusCode::kDataCorruption);
}

TEST_P(Frames, ControlMessageOfTheLimitIsAwaitedAndOneByteMoreIsRefused) {
  TestServer server;
  auto announce = [&](ClientConnection* connection, std::size_t bytes) {
    FrameHeader header = Request(MessageType::kControl, 1);
    header.payload_bytes = header.raw_bytes = static_cast<std::uint32_t>(bytes);
    std::array<std::byte, wire::kFrameHeaderBytes> head;
    wire::EncodeHeader(header, head);
    ASSERT_EQ(send(connection->fd(), head.data(), head.size(), MSG_NOSIGNAL), 48);
  };
  auto at_limit = server.Connect(GetParam());
  auto beyond = server.Connect(GetParam());
  announce(at_limit.get(), limits::kControlPayloadBytesMax);
  announce(beyond.get(), limits::kControlPayloadBytesMax + 1);
  EXPECT_EQ(beyond->ReadFrame(In(10s)).status().code(), StatusCode::kConnection);
  EXPECT_EQ(server.listener->Stats().bad_frames_total, 1u);
  EXPECT_TRUE(Eventually([&] { return server.listener->Stats().connections_open == 1; }));
}

TEST_P(Frames, AnnouncedButUnsentPayloadsTakeNoMemory) {
  TestServer server;
  std::vector<std::unique_ptr<ClientConnection>> connections;
  auto resident = [] {
    std::ifstream statm("/proc/self/statm");
    std::size_t total, pages;
    statm >> total >> pages;
    return pages * 4'096;
  };
  std::size_t before = resident();
  for (int i = 0; i < 16; ++i) {
    connections.push_back(server.Connect(GetParam()));
    FrameHeader header = Request(MessageType::kPush, 1);
    header.payload_bytes = header.raw_bytes = limits::kFramePayloadBytesMax;
    std::array<std::byte, 48> head;
    wire::EncodeHeader(header, head);
    ASSERT_EQ(send(connections.back()->fd(), head.data(), head.size(), MSG_NOSIGNAL), 48);
  }
  EXPECT_TRUE(Eventually([&] { return server.listener->Stats().bytes_received_total >= 16 * 48; }));
  EXPECT_LT(resident(), before + (64u << 20)) << "4 GiB were announced";
}

TEST_P(Frames, PeerThatClosesAmidAFrameIsForgotten) {
  TestServer server;
  for (std::size_t cut : {1u, 47u, 48u, 50u}) {
    auto connection = server.Connect(GetParam());
    std::string frame = FrameText(MessageType::kControl, "{\"op\":1}");
    ASSERT_EQ(send(connection->fd(), frame.data(), cut, MSG_NOSIGNAL), static_cast<ssize_t>(cut));
  }
  EXPECT_TRUE(Eventually([&] { return server.handler.closes == 4; }));
  EXPECT_EQ(server.listener->Stats().connections_open, 0u);
  EXPECT_EQ(server.listener->Stats().bad_frames_total, 0u);
  EXPECT_EQ(server.handler.frames, 0);
}

// --- back-pressure

TEST_P(Frames, RepliesThatNobodyReadsStopTheReadingUntilTheyAreRead) {
  constexpr std::uint64_t kReplyBytes = 1 << 20;
  constexpr int kRequests = 60;
  TestServer server([&](ListenerOptions* options) { options->unsent_bytes_max = 4 * kReplyBytes; });
  auto connection = server.Connect(GetParam());
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPush, i, kReplyBytes), {}).ok());
  }
  EXPECT_TRUE(Eventually([&] { return server.handler.frames >= 5; }));
  std::this_thread::sleep_for(100ms);
  EXPECT_LT(server.handler.frames, 40) << "4 MiB may wait, and the socket holds some";
  for (int i = 0; i < kRequests; ++i) {
    auto reply = connection->ReadFrame(In(20s));
    ASSERT_TRUE(reply.ok()) << reply.status().ToString();
    ASSERT_EQ(reply->header.request_id, static_cast<std::uint64_t>(i));
    ASSERT_EQ(reply->payload.size(), kReplyBytes);
  }
  EXPECT_EQ(server.handler.frames, kRequests);
}

TEST_P(Frames, RequestsWithoutAnAnswerAreBoundedPerConnection) {
  constexpr int kAtOnce = 4, kRequests = 10;
  TestServer server([](ListenerOptions* options) { options->unanswered_max = kAtOnce; });
  server.handler.hold = true;
  auto connection = server.Connect(GetParam());
  for (int i = 0; i < kRequests; ++i) {
    ASSERT_TRUE(SendOne(connection.get(), Request(MessageType::kPull, i), {}).ok());
  }
  for (int answered = 0; answered < kRequests; ++answered) {
    int expected = std::min(kRequests, answered + kAtOnce);
    EXPECT_TRUE(Eventually([&] { return server.handler.frames == expected; }))
        << server.handler.frames << " at " << answered;
    server.handler.AnswerHeld();
    ASSERT_TRUE(connection->ReadFrame(In(20s)).ok());
  }
}

TEST_P(Frames, PeerThatStopsAmidARequestOrAReplyIsClosedAnIdleOneIsNot) {
  constexpr std::uint64_t kReplyBytes = 32 << 20;  // more than any socket holds
  TestServer server([](ListenerOptions* options) { options->stall_timeout_ms = 200; });
  auto idle = server.Connect(GetParam());
  ASSERT_TRUE(SendOne(idle.get(), Request(MessageType::kPull, 1), {}).ok());
  ASSERT_TRUE(idle->ReadFrame(In(10s)).ok());

  auto amid_frame = server.Connect(GetParam());
  std::string half = FrameText(MessageType::kPull, std::string(100, 'x')).substr(0, 90);
  ASSERT_EQ(write(amid_frame->fd(), half.data(), half.size()), 90);
  auto amid_request = server.Connect(GetParam());
  FrameHeader more = Request(MessageType::kPull, 1);
  more.flags = wire::kMore;
  ASSERT_TRUE(SendOne(amid_request.get(), more, {}).ok());
  auto amid_reply = server.Connect(GetParam());
  ASSERT_TRUE(SendOne(amid_reply.get(), Request(MessageType::kPush, 1, kReplyBytes), {}).ok());

  EXPECT_TRUE(Eventually([&] { return server.listener->Stats().stalled_total == 3; }, 30s));
  EXPECT_TRUE(Eventually([&] { return server.listener->Stats().connections_open == 1; }, 30s));
  ASSERT_TRUE(SendOne(idle.get(), Request(MessageType::kPull, 2), {}).ok());
  EXPECT_TRUE(idle->ReadFrame(In(10s)).ok());
}

}  // namespace
}  // namespace ps::net
