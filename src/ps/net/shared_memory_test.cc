#include "ps/net/shared_memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "ps/net/test_server.h"

namespace ps::net {
namespace {

using namespace testing_server;

constexpr std::size_t kBytes = 1 << 20;

struct SocketPair {
  std::array<int, 2> ends;
  SocketPair() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0); }
  ~SocketPair() {
    close(ends[0]);
    close(ends[1]);
  }
};

TEST(SharedMemory, WhatOneEndWritesTheOtherReads) {
  auto mine = SharedMemory::Create(kBytes);
  ASSERT_TRUE(mine.ok()) << mine.status().ToString();
  SocketPair sockets;
  const std::array<std::byte, 3> sent{std::byte{1}, std::byte{2}, std::byte{3}};
  ASSERT_TRUE(SendWithDescriptor(sockets.ends[0], sent, mine->descriptor()));
  mine->CloseDescriptor();

  auto descriptor = PeekDescriptor(sockets.ends[1]);
  ASSERT_TRUE(descriptor.has_value());
  auto theirs = SharedMemory::Map(std::move(*descriptor), kBytes);
  ASSERT_TRUE(theirs.ok()) << theirs.status().ToString();
  std::array<std::byte, 3> got{};
  ASSERT_EQ(read(sockets.ends[1], got.data(), got.size()), 3) << "peeking left the bytes there";
  EXPECT_EQ(got, sent);
  mine->bytes()[kBytes - 1] = std::byte{7};
  EXPECT_EQ(theirs->bytes()[kBytes - 1], std::byte{7});
}

TEST(SharedMemory, NeitherEndCanMakeItShorter) {
  auto memory = SharedMemory::Create(kBytes);
  ASSERT_TRUE(memory.ok());
  EXPECT_NE(ftruncate(memory->descriptor(), 4'096), 0);

  Fd unsealed(memfd_create("unsealed", MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(unsealed.get(), kBytes), 0);
  EXPECT_EQ(SharedMemory::Map(std::move(unsealed), kBytes).status().code(),
            StatusCode::kDataCorruption);
}

TEST(SharedMemory, OrdinaryBytesBringNone) {
  SocketPair sockets;
  EXPECT_FALSE(PeekDescriptor(sockets.ends[1]).has_value());
  ASSERT_EQ(write(sockets.ends[0], "x", 1), 1);
  EXPECT_FALSE(PeekDescriptor(sockets.ends[1]).has_value());
}

TEST(SharedMemory, AForkedChildDoesNotGetIt) {
  auto memory = SharedMemory::Create(kBytes);
  ASSERT_TRUE(memory.ok());
  memory->bytes()[0] = std::byte{1};
  pid_t child = fork();
  if (child == 0) {
    unsigned char is_there;
    _exit(mincore(memory->bytes().data(), 4'096, &is_there) == 0 ? 1 : 0);  // ENOMEM: not mapped
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST(SharedMemory, ConnectionsOverUnixSocketsHaveSomeAndThoseOverTcpNone) {
  TestServer server;
  EXPECT_EQ(server.Connect(Transport::kUnix)->shared_memory().size(), limits::kSharedMemoryBytes);
  EXPECT_TRUE(server.Connect(Transport::kTcp)->shared_memory().empty());
}

TEST(SharedMemory, BeyondTheTotalConnectionsDoWithout) {
  TestServer server;
  constexpr std::size_t kWithMemory = limits::kSharedMemoryBytesTotal / limits::kSharedMemoryBytes;
  std::vector<std::unique_ptr<ClientConnection>> connections;
  for (std::size_t i = 0; i < kWithMemory; ++i) {
    connections.push_back(server.Connect(Transport::kUnix));
    ASSERT_FALSE(connections.back()->shared_memory().empty());
  }
  auto beyond = server.Connect(Transport::kUnix);
  EXPECT_TRUE(beyond->shared_memory().empty());
  auto payload = Pattern(100);
  ASSERT_TRUE(SendOne(beyond.get(), Request(MessageType::kPull, 1), payload).ok());
  EXPECT_TRUE(beyond->ReadFrame(In(20s)).ok());

  connections.clear();
  EXPECT_TRUE(
      Eventually([&] { return !server.Connect(Transport::kUnix)->shared_memory().empty(); }));
}

}  // namespace
}  // namespace ps::net
