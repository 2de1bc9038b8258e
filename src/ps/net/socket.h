#pragma once

#include <poll.h>
#include <sys/uio.h>

#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "ps/base/clock.h"
#include "ps/base/status.h"

namespace ps::net {

// Owns a file descriptor. Every descriptor of this folder is close-on-exec and non-blocking, and
// forked children let go of it (fork_guard.h).
class Fd {
 public:
  Fd() = default;
  explicit Fd(int fd) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd();

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release();
  void Reset();

 private:
  int fd_ = -1;
};

// "Connection refused (111)".
std::string ErrnoText(int error);

// A stream socket of the family (AF_INET, AF_INET6, AF_UNIX).
Result<Fd> OpenStreamSocket(int family);

// PSConfig.driver_silence_seconds, where nobody says another.
inline constexpr int kPeerSilenceMs = 60'000;

// For a connected socket. TCP: no delay; a host that says nothing at all for peer_silence_ms (in
// steps of some seconds), not even that it has got what was sent, is dead: the connection ends.
// Between two ends on one host there is no network to spare, hence no pacing, whatever congestion
// control the system has ("bbr": a timer for every 64 KiB, docs/performance.md). Unix: a send
// buffer that lets both sides copy at once.
void TuneStreamSocket(int fd, bool is_unix, int peer_silence_ms = kPeerSilenceMs);

// `seconds` as peer_silence_ms, but never less than a slow peer is allowed (kStallTimeoutMs).
int PeerSilenceMs(double seconds);

// "address:port" of a connected socket's other end; "unix" of a Unix socket, "unknown" when it is
// gone.
std::string PeerAddress(int fd);

// Bytes moved, 0 = would block. The peer's end of stream is a ConnectionError.
Result<std::size_t> WriteSomeTo(int fd, std::span<const iovec> parts);
Result<std::size_t> ReadSomeFrom(int fd, std::span<std::byte> out);

// Asked by a thread that waits, every kInterruptInterval; true ends the wait with kClosed. May be
// empty.
using IsInterrupted = std::function<bool()>;
inline constexpr Duration kInterruptInterval = std::chrono::milliseconds(100);

// Returns when the descriptor is ready for `events` (POLLIN, POLLOUT), or has failed: the next call
// on it tells. TimeoutError at the deadline; `what` ends the sentence "timed out while ...".
Status WaitUntilReady(int fd, short events, SteadyTime deadline, const std::string& what,
                      const IsInterrupted& is_interrupted = {});

}  // namespace ps::net
