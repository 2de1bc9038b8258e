#include "ps/net/socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <string_view>
#include <system_error>
#include <utility>

#include "ps/base/limits.h"
#include "ps/net/fork_guard.h"

namespace ps::net {
namespace {

// Half of the silence passes before the first of so many probes.
constexpr int kKeepAliveProbes = 4;
constexpr int kKeepAliveSecondsMax = 32'767;  // tcp(7)

// Granted up to net.core.wmem_max. bench/wire_bench.cc says what it is worth.
constexpr int kUnixSendBufferBytes = 1 << 20;

// A congestion control without pacing that every Linux has, and lets everybody choose.
constexpr std::string_view kUnpaced = "reno";

// One wait without the question whether it is interrupted; its milliseconds stay below INT_MAX.
constexpr SteadyTime::duration kWaitMax = std::chrono::hours(24);

void SetOption(int fd, int level, int name, int value) {
  // A refused option costs speed, not correctness.
  (void)setsockopt(fd, level, name, &value, sizeof(value));
}

// Whether both ends of a TCP connection have one address.
bool StaysOnHost(int fd) {
  sockaddr_storage here{}, there{};
  socklen_t bytes = sizeof(here);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&here), &bytes) != 0) return false;
  bytes = sizeof(there);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&there), &bytes) != 0) return false;
  const auto same = [&](auto address, auto part) {
    std::memcpy(&address, &here, sizeof(address));
    const auto one = address.*part;
    std::memcpy(&address, &there, sizeof(address));
    const auto other = address.*part;
    return std::memcmp(&one, &other, sizeof(one)) == 0;
  };
  if (here.ss_family == AF_INET) return same(sockaddr_in{}, &sockaddr_in::sin_addr);
  return here.ss_family == AF_INET6 && same(sockaddr_in6{}, &sockaddr_in6::sin6_addr);
}

bool WouldBlock(int error) { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) {
    Reset();
    fd_ = other.release();
  }
  return *this;
}

Fd::~Fd() { Reset(); }

int Fd::release() { return std::exchange(fd_, -1); }

void Fd::Reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

std::string ErrnoText(int error) {
  return std::generic_category().message(error) + " (" + std::to_string(error) + ")";
}

Result<Fd> OpenStreamSocket(int family) {
  Fd fd(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ConnectionError("cannot open a socket: " + ErrnoText(errno));
  KeepFromForkedChildren(fd.get());
  return fd;
}

void TuneStreamSocket(int fd, bool is_unix, int peer_silence_ms) {
  if (is_unix) {
    SetOption(fd, SOL_SOCKET, SO_SNDBUF, kUnixSendBufferBytes);
    return;
  }
  SetOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  SetOption(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  const int half_seconds = peer_silence_ms / 2'000;
  SetOption(fd, IPPROTO_TCP, TCP_KEEPIDLE, std::clamp(half_seconds, 1, kKeepAliveSecondsMax));
  SetOption(fd, IPPROTO_TCP, TCP_KEEPINTVL,
            std::clamp(half_seconds / kKeepAliveProbes, 1, kKeepAliveSecondsMax));
  SetOption(fd, IPPROTO_TCP, TCP_KEEPCNT, kKeepAliveProbes);
  // The same where bytes are under way: without it the system repeats them for a quarter of an
  // hour.
  SetOption(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, peer_silence_ms);
  if (StaysOnHost(fd)) {
    (void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, kUnpaced.data(), kUnpaced.size());
  }
}

int PeerSilenceMs(double seconds) {
  // TCP_USER_TIMEOUT also ends connections to peers that live, but take nothing for so long.
  const double least = limits::kStallTimeoutMs;
  return static_cast<int>(std::clamp(seconds * 1e3, least, static_cast<double>(INT_MAX)));
}

std::string PeerAddress(int fd) {
  sockaddr_storage address{};
  socklen_t bytes = sizeof(address);
  auto* raw = reinterpret_cast<sockaddr*>(&address);
  if (getpeername(fd, raw, &bytes) != 0) return "unknown";
  if (address.ss_family == AF_UNIX) return "unix";
  char host[NI_MAXHOST];
  char port[NI_MAXSERV];
  int failed = getnameinfo(raw, bytes, host, sizeof(host), port, sizeof(port),
                           NI_NUMERICHOST | NI_NUMERICSERV);
  if (failed != 0) return "unknown";
  return address.ss_family == AF_INET6 ? std::string("[") + host + "]:" + port
                                       : std::string(host) + ":" + port;
}

Result<std::size_t> WriteSomeTo(int fd, std::span<const iovec> parts) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(parts.data());
  message.msg_iovlen = std::min<std::size_t>(parts.size(), IOV_MAX);
  while (true) {
    ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) return static_cast<std::size_t>(sent);
    if (WouldBlock(errno)) return std::size_t{0};
    if (errno != EINTR) return ConnectionError("sending failed: " + ErrnoText(errno));
  }
}

Result<std::size_t> ReadSomeFrom(int fd, std::span<std::byte> out) {
  if (out.empty()) return std::size_t{0};
  while (true) {
    ssize_t got = recv(fd, out.data(), out.size(), MSG_DONTWAIT);
    if (got > 0) return static_cast<std::size_t>(got);
    if (got == 0) return ConnectionError("the peer closed the connection");
    if (WouldBlock(errno)) return std::size_t{0};
    if (errno != EINTR) return ConnectionError("receiving failed: " + ErrnoText(errno));
  }
}

Status WaitUntilReady(int fd, short events, SteadyTime deadline, const std::string& what,
                      const IsInterrupted& is_interrupted) {
  while (true) {
    SteadyTime now = Now();
    if (now >= deadline) return TimeoutError("timed out while " + what);
    if (is_interrupted && is_interrupted()) {
      return Status(StatusCode::kClosed, "interrupted while " + what);
    }
    // Rounded up, so as not to spin before the end.
    auto left = std::min<SteadyTime::duration>(deadline - now,
                                               is_interrupted ? kInterruptInterval : kWaitMax);
    auto left_ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    pollfd waiting{fd, events, 0};
    int ready = poll(&waiting, 1, static_cast<int>(left_ms));
    if (ready > 0) return Status::Ok();
    if (ready < 0 && errno != EINTR) {
      return ConnectionError("waiting failed while " + what + ": " + ErrnoText(errno));
    }
  }
}

}  // namespace ps::net
