#pragma once

// What the benchmarks of sockets share: a bare loop that moves the same bytes over the same kind of
// socket, in a process of its own, and measuring it in turn with ours.
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "bench/statistics.h"
#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/net/resolve.h"
#include "ps/net/socket.h"

namespace ps::bench {

inline constexpr std::size_t kPingBytes = 64;

[[noreturn]] inline void Die(const std::string& what) {
  std::fprintf(stderr, "benchmark: %s (%s)\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}
inline void Check(const Status& status) {
  if (!status.ok()) Die(status.ToString());
}
inline SteadyTime Soon() { return std::chrono::steady_clock::now() + std::chrono::seconds(60); }

template <typename Work>
pid_t Fork(Work work) {
  pid_t child = fork();
  if (child < 0) Die("fork");
  if (child == 0) {
    work();
    _exit(0);
  }
  return child;
}

// --- the bare loop: a ping of 64 bytes says how many bytes follow, and how many come back

struct Command {
  std::uint64_t sent = 0;
  std::uint64_t answered = 0;
};

inline bool MoveAll(int fd, void* data, std::size_t bytes, bool out) {
  auto* next = static_cast<char*>(data);
  while (bytes > 0) {
    ssize_t moved = out ? write(fd, next, bytes) : read(fd, next, bytes);
    if (moved <= 0) return false;
    next += moved;
    bytes -= static_cast<std::size_t>(moved);
  }
  return true;
}

// Of TCP: as the system sets it up, or as our connections within one host are, without pacing.
enum class BareTcp { kSystems, kUnpaced };

inline void TuneBare(int fd, bool is_unix, BareTcp tcp) {
  if (is_unix || tcp == BareTcp::kUnpaced) return net::TuneStreamSocket(fd, is_unix);
  const int yes = 1;
  if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)) != 0) Die("setsockopt");
}

// A listening socket with the address it got.
struct BareListener {
  net::SocketAddress address;
  net::Fd fd;

  // `unix_path` empty: TCP on the loopback interface.
  explicit BareListener(const std::string& unix_path)
      : address(unix_path.empty() ? (*net::Resolve("127.0.0.1", 0, Soon()))[0]
                                  : *net::UnixAddress(unix_path)),
        fd(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    if (bind(fd.get(), address.get(), address.bytes) != 0) Die("bind");
    if (listen(fd.get(), 1) != 0) Die("listen");
    socklen_t length = sizeof(address.storage);
    getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address.storage), &length);
  }

  // Serves one connection to its end.
  void Serve(std::size_t bytes_max, BareTcp tcp = BareTcp::kSystems) const {
    int peer = accept(fd.get(), nullptr, nullptr);
    TuneBare(peer, address.family() == AF_UNIX, tcp);
    std::vector<char> memory(bytes_max, 1);
    char ping[kPingBytes];
    while (MoveAll(peer, ping, sizeof(ping), false)) {
      Command command;
      std::memcpy(&command, ping, sizeof(command));
      if (!MoveAll(peer, memory.data(), command.sent, false)) return;
      if (!MoveAll(peer, memory.data(), command.answered, true)) return;
    }
  }
};

class BareClient {
 public:
  BareClient(const net::SocketAddress& address, std::size_t bytes_max,
             BareTcp tcp = BareTcp::kSystems)
      : memory_(bytes_max, 1) {
    fd_ = net::Fd(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(fd_.get(), address.get(), address.bytes) != 0) Die("connect");
    TuneBare(fd_.get(), address.family() == AF_UNIX, tcp);
  }
  void Run(std::uint64_t sent, std::uint64_t answered) {
    char ping[kPingBytes] = {};
    Command command{sent, answered};
    std::memcpy(ping, &command, sizeof(command));
    bool ok = MoveAll(fd_.get(), ping, sizeof(ping), true) &&
              MoveAll(fd_.get(), memory_.data(), sent, true) &&
              MoveAll(fd_.get(), memory_.data(), answered, false);
    if (!ok) Die("bare loop");
  }

 private:
  net::Fd fd_;
  std::vector<char> memory_;
};

// --- both, in turn

struct Row {
  const char* name;
  std::function<void()> bare;
  std::function<void()> ours;
  int repeats;
  double bytes;       // 0: a latency
  const char* floor;  // with the aim, empty for a figure that is only to be seen
  const char* aim;
};

inline double SecondsOf(const std::function<void()>& work, int repeats) {
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    auto begin = std::chrono::steady_clock::now();
    work();
    times.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return Median(times);
}

// A line of results: the median of the ratios of pairs, and the medians of both.
inline void Measure(const char* kind, const Row& row, int rounds) {
  SecondsOf(row.bare, row.repeats);
  SecondsOf(row.ours, row.repeats);
  std::vector<double> bare, ours, ratios;
  for (int i = 0; i < rounds; ++i) {
    bare.push_back(SecondsOf(row.bare, row.repeats));
    ours.push_back(SecondsOf(row.ours, row.repeats));
    ratios.push_back(row.bytes > 0 ? bare.back() / ours.back() : ours.back() / bare.back());
  }
  char both[96];
  if (row.bytes > 0) {
    std::snprintf(both, sizeof(both), "; %.2f GB/s, bare %.2f", row.bytes / Median(ours) / 1e9,
                  row.bytes / Median(bare) / 1e9);
  } else {
    std::snprintf(both, sizeof(both), "; p50 %.1f us, bare %.1f", 1e6 * Median(ours),
                  1e6 * Median(bare));
  }
  Bar(std::string(row.name) + ", " + kind,
      (row.bytes > 0 ? Share(ratios) : Multiple(ratios)) + both, row.floor, row.aim);
}

}  // namespace ps::bench
