#include "ps/net/fork_guard.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace ps::net {
namespace {

// Whether the other end of a socket is noticed to have gone.
bool PeerHasGone(int fd) {
  pollfd waiting{fd, POLLIN, 0};
  char byte = 0;
  return ::poll(&waiting, 1, 5'000) == 1 && ::recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

TEST(ForkGuard, AChildLetsGoOfTheSocketAndOfNothingElse) {
  int guarded[2], plain[2], reused[2], life[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, guarded), 0);
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, plain), 0);
  ASSERT_EQ(::pipe(life), 0);
  KeepFromForkedChildren(guarded[0]);
  // A number that was told once and belongs to another socket by now.
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, reused), 0);
  KeepFromForkedChildren(reused[0]);
  int again = ::dup(plain[0]);
  ASSERT_EQ(::dup2(again, reused[0]), reused[0]);

  pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    // Using the guarded one fails, the others work; then live on until the parent says so.
    char byte = 'x';
    bool right = ::send(guarded[0], &byte, 1, MSG_NOSIGNAL) < 0 &&
                 ::send(reused[0], &byte, 1, MSG_NOSIGNAL) == 1 && ::close(guarded[0]) == 0;
    ::close(life[1]);
    (void)::read(life[0], &byte, 1);
    ::_exit(right ? 0 : 1);
  }
  ::close(guarded[0]);
  EXPECT_TRUE(PeerHasGone(guarded[1])) << "the child still holds it";
  ::close(life[1]);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  for (int fd : {guarded[1], plain[0], plain[1], reused[0], reused[1], again, life[0]}) ::close(fd);
}

}  // namespace
}  // namespace ps::net
