// The wire against bare sockets: the same bytes over the same kind of socket, client and server in
// two processes, in turn within one run. Prints ratios; the bars are in the benchmarks' document.
//
//   ps_wire_bench [rounds]
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <asio/io_context.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ps/net/client_connection.h"
#include "ps/net/listener.h"
#include "ps/net/resolve.h"
#include "ps/net/socket.h"
#include "ps/wire/messages.h"

namespace {

using namespace ps;
using namespace ps::net;
using std::chrono::steady_clock;

constexpr std::size_t kKeys = 53'248;
constexpr std::size_t kDim = 64;
constexpr std::size_t kBulkBytes = kKeys * kDim * sizeof(float);  // 13.6 MB
constexpr std::size_t kPingBytes = 64;
constexpr std::size_t kSmallKeys = 16;
constexpr std::size_t kSmallReplyBytes =
    wire::kSectionHeadBytes + kSmallKeys * kDim * sizeof(float);
constexpr std::size_t kFramesOfAPull = 6;  // 10,000 keys each
constexpr int kPingsPerRound = 2'000;
const std::string kSecret = "the secret of a benchmark, 32 by";
const wire::Identity kIdentity{0, 1};

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "wire_bench: %s (%s)\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}

void Check(const Status& status) {
  if (!status.ok()) Die(status.ToString());
}

SteadyTime Soon() { return steady_clock::now() + std::chrono::seconds(60); }

double SecondsOf(const std::function<void()>& work) {
  auto begin = steady_clock::now();
  work();
  return std::chrono::duration<double>(steady_clock::now() - begin).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// --- bare sockets, with the options of ours: a command of 16 bytes {bytes to come, bytes to
// answer}, then the bytes

struct Command {
  std::uint64_t sent = 0;
  std::uint64_t answered = 0;
};

void WriteAll(int fd, const void* data, std::size_t bytes) {
  auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    ssize_t moved = write(fd, next, bytes);
    if (moved <= 0) Die("write");
    next += moved;
    bytes -= static_cast<std::size_t>(moved);
  }
}

bool ReadAll(int fd, void* data, std::size_t bytes) {
  auto* next = static_cast<char*>(data);
  while (bytes > 0) {
    ssize_t moved = read(fd, next, bytes);
    if (moved <= 0) return false;
    next += moved;
    bytes -= static_cast<std::size_t>(moved);
  }
  return true;
}

void ServeBare(int listening, bool over_unix) {
  int fd = accept(listening, nullptr, nullptr);
  TuneStreamSocket(fd, over_unix);
  std::vector<char> memory(kBulkBytes, 1);
  Command command;
  // The 64-byte ping is the command itself, padded: one read, one write.
  char ping[kPingBytes];
  while (ReadAll(fd, ping, sizeof(ping))) {
    std::memcpy(&command, ping, sizeof(command));
    if (command.sent > 0 && !ReadAll(fd, memory.data(), command.sent)) return;
    WriteAll(fd, memory.data(), command.answered);
  }
}

class BareClient {
 public:
  explicit BareClient(const SocketAddress& address) : memory_(kBulkBytes, 1) {
    fd_ = Fd(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(fd_.get(), address.get(), address.bytes) != 0) Die("connect");
    TuneStreamSocket(fd_.get(), address.family() == AF_UNIX);
  }
  void Run(std::uint64_t sent, std::uint64_t answered) {
    char ping[kPingBytes] = {};
    Command command{sent, answered};
    std::memcpy(ping, &command, sizeof(command));
    WriteAll(fd_.get(), ping, sizeof(ping));
    if (sent > 0) WriteAll(fd_.get(), memory_.data(), sent);
    if (!ReadAll(fd_.get(), memory_.data(), answered)) Die("read");
  }

 private:
  Fd fd_;
  std::vector<char> memory_;
};

// --- ours

// kPull is answered with `sequence` bytes of fresh memory, written once, as a gather would (memory
// never written to would come from one page in the cache); kPush with nothing.
class Handler : public FrameHandler {
 public:
  void OnFrame(const ConnectionPtr& connection, Frame frame) override {
    wire::FrameHeader reply;
    reply.request_id = frame.header.request_id;
    bool is_pull = frame.header.type == wire::MessageType::kPull;
    reply.type = is_pull ? wire::MessageType::kPullReply : wire::MessageType::kPushReply;
    Buffer payload(is_pull ? frame.header.sequence : 0);
    if (is_pull) std::memset(payload.data(), 1, payload.size());
    connection->Send(reply, std::move(payload));
  }
  void OnClose(const ConnectionPtr& connection, const Status&) override {
    connection->context().stop();
  }
};

class OurClient {
 public:
  explicit OurClient(std::unique_ptr<ClientConnection> connection)
      : connection_(std::move(connection)), memory_(kBulkBytes) {}

  void Pull(std::size_t request_bytes, std::size_t reply_bytes, std::size_t frames) {
    for (std::size_t i = 0; i < frames; ++i) {
      Send(wire::MessageType::kPull, request_bytes / frames, reply_bytes / frames);
    }
    for (std::size_t i = 0; i < frames; ++i) Read();
  }
  void Push(std::size_t bytes) {
    Send(wire::MessageType::kPush, bytes, 0);
    Read();
  }

 private:
  void Send(wire::MessageType type, std::size_t bytes, std::size_t reply_bytes) {
    wire::FrameHeader header;
    header.type = type;
    header.request_id = connection_->NextRequestId();
    header.sequence = reply_bytes;
    std::span<const std::byte> part(memory_.data(), bytes);
    Check(connection_->SendFrame(header, std::span(&part, 1), Soon()));
  }
  void Read() {
    auto header = connection_->ReadHeader(Soon());
    Check(header.status());
    Check(connection_->ReadBytes(std::span(memory_).first(header->payload_bytes), Soon()));
  }

  std::unique_ptr<ClientConnection> connection_;
  std::vector<std::byte> memory_;
};

// --- both, in turn

struct Row {
  const char* name;
  std::function<void()> bare;
  std::function<void()> ours;
  int repeats;
  double bytes;  // 0: a latency
  const char* bar;
};

void Measure(const char* kind, const Row& row, int rounds) {
  std::vector<double> bare, ours, ratios;
  auto time_of = [&](const std::function<void()>& work) {
    std::vector<double> times;
    for (int i = 0; i < row.repeats; ++i) times.push_back(SecondsOf(work));
    return Median(times);
  };
  time_of(row.bare);
  time_of(row.ours);
  for (int i = 0; i < rounds; ++i) {
    bare.push_back(time_of(row.bare));
    ours.push_back(time_of(row.ours));
    ratios.push_back(row.bytes > 0 ? bare.back() / ours.back() : ours.back() / bare.back());
  }
  double b = Median(bare), o = Median(ours), ratio = Median(ratios);
  if (row.bytes > 0) {
    std::printf("%-5s %-28s bare %6.2f GB/s   ours %6.2f GB/s   %5.0f %%   (%s)\n", kind, row.name,
                row.bytes / b / 1e9, row.bytes / o / 1e9, 100 * ratio, row.bar);
  } else {
    std::printf("%-5s %-28s bare %6.1f us     ours %6.1f us     %5.2f x   (%s)\n", kind, row.name,
                b * 1e6, o * 1e6, ratio, row.bar);
  }
  std::fflush(stdout);
}

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

void Bench(bool over_unix, int rounds) {
  std::string bare_path = "/tmp/ps_wire_bench_bare_" + std::to_string(getpid());
  std::string our_path = "/tmp/ps_wire_bench_" + std::to_string(getpid());
  SocketAddress address =
      over_unix ? *UnixAddress(bare_path) : (*Resolve("127.0.0.1", 0, Soon()))[0];
  Fd listening(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (bind(listening.get(), address.get(), address.bytes) != 0) Die("bind");
  if (listen(listening.get(), 1) != 0) Die("listen");
  socklen_t length = sizeof(address.storage);
  getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address.storage), &length);
  pid_t bare_server = Fork([&] { ServeBare(listening.get(), over_unix); });

  int port_pipe[2];
  if (pipe(port_pipe) != 0) Die("pipe");
  pid_t our_server = Fork([&] {
    asio::io_context context(1);
    Handler handler;
    ListenerOptions options;
    options.host = "127.0.0.1";
    options.unix_path = our_path;
    options.secret = kSecret;
    options.identity = kIdentity;
    auto listener = Listener::Start(options, {&context}, &handler);
    Check(listener.status());
    int port = (*listener)->port();
    WriteAll(port_pipe[1], &port, sizeof(port));
    context.run();
  });
  ConnectOptions options;
  if (!ReadAll(port_pipe[0], &options.endpoint.port, sizeof(int))) Die("no port");
  options.endpoint.host = "127.0.0.1";
  options.endpoint.unix_path = our_path;
  options.transport = over_unix ? Transport::kUnix : Transport::kTcp;
  options.secret = kSecret;
  options.expected = kIdentity;
  auto connection = ClientConnection::Connect(options, Soon());
  Check(connection.status());
  {
    BareClient bare(address);
    OurClient ours(std::move(connection).value());
    const char* kind = over_unix ? "unix" : "tcp";
    std::size_t keys_bytes = wire::kSectionHeadBytes + kKeys * sizeof(Key);
    std::vector<Row> rows = {
        {"pull 13.6 MB, one frame", [&] { bare.Run(keys_bytes, kBulkBytes); },
         [&] { ours.Pull(keys_bytes, kBulkBytes, 1); }, 7, kBulkBytes, "floor 50, aim 80"},
        {"pull 13.6 MB, six frames", [&] { bare.Run(keys_bytes, kBulkBytes); },
         [&] { ours.Pull(keys_bytes, kBulkBytes, kFramesOfAPull); }, 7, kBulkBytes,
         "floor 50, aim 80"},
        {"push 13.6 MB", [&] { bare.Run(kBulkBytes, kPingBytes); }, [&] { ours.Push(kBulkBytes); },
         7, kBulkBytes, "floor 50, aim 80"},
        {"16 keys against a ping", [&] { bare.Run(0, kPingBytes); },
         [&] { ours.Pull(wire::kSectionHeadBytes + kSmallKeys * 8, kSmallReplyBytes, 1); },
         kPingsPerRound, 0, "floor 3, aim 1.5"},
        {"empty frame against a ping", [&] { bare.Run(0, kPingBytes); },
         [&] { ours.Pull(0, 0, 1); }, kPingsPerRound, 0, "for the reader"},
    };
    for (const Row& row : rows) Measure(kind, row, rounds);
  }
  waitpid(bare_server, nullptr, 0);
  waitpid(our_server, nullptr, 0);
  unlink(bare_path.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 9;
  utsname machine{};
  uname(&machine);
  std::printf("wire_bench: %s %s, %ld cores, %d rounds; medians, ratios are medians of pairs\n",
              machine.machine, machine.release, sysconf(_SC_NPROCESSORS_ONLN), rounds);
  Bench(true, rounds);
  Bench(false, rounds);
  return 0;
}
