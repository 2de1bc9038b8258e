// The client and a server process against bare sockets: pull and push of 53,248 keys of 64 floats
// (Adagrad applied), and of 16 keys, in turn with a bare loop that moves the same bytes over the
// same kind of socket. Prints ratios; the bars are in the benchmarks' document.
//
//   ps_client_bench [rounds] [shard threads] [unix,tcp]
#include <sched.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "ps/client/client.h"
#include "ps/coordinator/coordinator.h"
#include "ps/net/resolve.h"
#include "ps/net/socket.h"
#include "ps/server/server.h"

namespace {

using namespace ps;
using std::chrono::steady_clock;

constexpr std::size_t kKeys = 53'248;
constexpr std::size_t kDim = 64;
constexpr std::size_t kKeyBytes = kKeys * sizeof(Key);
constexpr std::size_t kRowBytes = kKeys * kDim * sizeof(float);  // 13.6 MB
constexpr std::size_t kPingBytes = 64;
constexpr int kPings = 2'000;
const std::string kSecret = "the secret of a benchmark, 32 by";

[[noreturn]] void Die(const std::string& what) {
  std::fprintf(stderr, "client_bench: %s (%s)\n", what.c_str(), std::strerror(errno));
  std::exit(1);
}
void Check(const Status& status) {
  if (!status.ok()) Die(status.ToString());
}
SteadyTime Soon() { return steady_clock::now() + std::chrono::seconds(60); }

double Median(std::vector<double> values) {
  auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void Pin(int cpu) {
  const char* env = std::getenv("PS_PIN");
  if (env == nullptr) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (cpu == 1 && env[0] == '2') CPU_SET(0, &set);
  sched_setaffinity(0, sizeof(set), &set);
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

// --- bare sockets: a ping of 64 bytes that says how many bytes follow, and how many come back

struct Command {
  std::uint64_t sent = 0;
  std::uint64_t answered = 0;
};

bool MoveAll(int fd, char* data, std::size_t bytes, bool out) {
  while (bytes > 0) {
    ssize_t moved = out ? write(fd, data, bytes) : read(fd, data, bytes);
    if (moved <= 0) return false;
    data += moved;
    bytes -= static_cast<std::size_t>(moved);
  }
  return true;
}

void ServeBare(int listening, bool over_unix) {
  int fd = accept(listening, nullptr, nullptr);
  net::TuneStreamSocket(fd, over_unix);
  std::vector<char> memory(kKeyBytes + kRowBytes, 1);
  char ping[kPingBytes];
  while (MoveAll(fd, ping, sizeof(ping), false)) {
    Command command;
    std::memcpy(&command, ping, sizeof(command));
    if (!MoveAll(fd, memory.data(), command.sent, false)) return;
    if (!MoveAll(fd, memory.data(), command.answered, true)) return;
  }
}

class BareClient {
 public:
  explicit BareClient(const net::SocketAddress& address) : memory_(kKeyBytes + kRowBytes, 1) {
    fd_ = net::Fd(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connect(fd_.get(), address.get(), address.bytes) != 0) Die("connect");
    net::TuneStreamSocket(fd_.get(), address.family() == AF_UNIX);
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

// --- the server process

struct Announcement {
  int port = 0;
  char unix_path[108] = {};
};

void Serve(const std::string& unix_dir, int shard_threads, int announce, int end) {
  coordinator::CoordinatorOptions coordination;
  coordination.bind_host = "127.0.0.1";
  coordination.secret = kSecret;
  coordination.weight_optimizer = {"sgd", {}};
  sharding::TableDefinition table;
  table.name = "default";
  table.dim = kDim;
  table.optimizer = {"adagrad", {}};
  table.init = "normal";
  coordination.tables = {table};
  auto coordinator = coordinator::Coordinator::Start(coordination);
  Check(coordinator.status());
  server::ServerOptions serving;
  serving.bind_host = "127.0.0.1";
  serving.unix_dir = unix_dir;
  serving.shard_threads = shard_threads;
  serving.coordinator = (*coordinator)->endpoint();
  serving.secret = kSecret;
  auto server = server::Server::Start(serving);
  Check(server.status());
  Check((*coordinator)->WaitRunning(Soon()));
  Announcement announcement;
  announcement.port = (*server)->port();
  std::strncpy(announcement.unix_path, (*server)->unix_path().c_str(), 107);
  MoveAll(announce, reinterpret_cast<char*>(&announcement), sizeof(announcement), true);
  char byte;
  MoveAll(end, &byte, 1, false);  // until the benchmark's process ends
}

// --- both, in turn

struct Row {
  const char* name;
  std::function<void()> bare;
  std::function<void()> ours;
  int repeats;
  double bytes;  // 0: a latency
  const char* bar;
};

double TimeOf(const std::function<void()>& work, int repeats) {
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    auto begin = steady_clock::now();
    work();
    times.push_back(std::chrono::duration<double>(steady_clock::now() - begin).count());
  }
  return Median(times);
}

void Measure(const char* kind, const Row& row, int rounds) {
  TimeOf(row.bare, row.repeats);
  TimeOf(row.ours, row.repeats);
  std::vector<double> bare, ours, ratios;
  for (int i = 0; i < rounds; ++i) {
    bare.push_back(TimeOf(row.bare, row.repeats));
    ours.push_back(TimeOf(row.ours, row.repeats));
    ratios.push_back(row.bytes > 0 ? bare.back() / ours.back() : ours.back() / bare.back());
  }
  if (row.bytes > 0) {
    std::printf("%-5s %-36s bare %6.2f GB/s   ours %6.2f GB/s   %5.0f %%   (%s)\n", kind, row.name,
                row.bytes / Median(bare) / 1e9, row.bytes / Median(ours) / 1e9,
                100 * Median(ratios), row.bar);
  } else {
    std::printf("%-5s %-36s bare %6.1f us     ours %6.1f us     %5.2f x   (%s)\n", kind, row.name,
                1e6 * Median(bare), 1e6 * Median(ours), Median(ratios), row.bar);
  }
  std::fflush(stdout);
}

class OurClient {
 public:
  explicit OurClient(std::unique_ptr<client::Client> client) : client_(std::move(client)) {
    std::mt19937_64 random(1);
    for (Key& key : keys_) key = random();
    skewed_ = keys_;
    for (Key& key : skewed_) {  // about a third are distinct
      double u = static_cast<double>(random() % 1'000'000 + 1) / 1e6;
      key = keys_[static_cast<std::size_t>(u * u * u * (kKeys - 1))];
    }
    grads_.assign(kKeys * kDim, 1e-3f);
  }
  void Pull(const std::vector<Key>& keys, std::size_t count) {
    client::RowsPull pull{0, {keys.data(), count}, rows_.data(), true};
    Check(client_->Pull({&pull, 1}, {}));
  }
  void Push(const std::vector<Key>& keys) {
    client::RowsPush push{0, keys, grads_.data()};
    Check(client_->Push({&push, 1}, {}, {}));
  }
  const std::vector<Key>& keys() const { return keys_; }
  const std::vector<Key>& skewed() const { return skewed_; }

 private:
  std::unique_ptr<client::Client> client_;
  std::vector<Key> keys_ = std::vector<Key>(kKeys);
  std::vector<Key> skewed_;
  std::vector<float> rows_ = std::vector<float>(kKeys * kDim);
  std::vector<float> grads_;
};

// User and system time of a process so far, to 10 ms.
double CpuSeconds(pid_t process) {
  std::ifstream file("/proc/" + std::to_string(process) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::vector<std::string> words{std::istream_iterator<std::string>(fields), {}};
  double ticks = std::stod(words.at(11)) + std::stod(words.at(12));
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

void MeasureCpu(const char* kind, const char* name, pid_t server,
                const std::function<void()>& work) {
  constexpr int kRepeats = 50;
  double client = CpuSeconds(getpid()), serving = CpuSeconds(server);
  for (int i = 0; i < kRepeats; ++i) work();
  double millions = kRepeats * static_cast<double>(kKeys) / 1e6;
  std::printf("%-5s CPU seconds per million rows %s: client %.3f, server %.3f\n", kind, name,
              (CpuSeconds(getpid()) - client) / millions,
              (CpuSeconds(server) - serving) / millions);
}

void Bench(bool over_unix, int rounds, int shard_threads) {
  std::string folder = (std::filesystem::temp_directory_path() / "ps-bench-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) Die("mkdtemp");
  net::SocketAddress address =
      over_unix ? *net::UnixAddress(folder + "/bare") : (*net::Resolve("127.0.0.1", 0, Soon()))[0];
  net::Fd listening(socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (bind(listening.get(), address.get(), address.bytes) != 0) Die("bind");
  if (listen(listening.get(), 1) != 0) Die("listen");
  socklen_t length = sizeof(address.storage);
  getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address.storage), &length);

  int announced[2], end[2];
  if (pipe(announced) != 0 || pipe(end) != 0) Die("pipe");
  pid_t bare_server = Fork([&] {
    close(end[1]);
    Pin(1);
    ServeBare(listening.get(), over_unix);
  });
  pid_t our_server = Fork([&] {
    close(end[1]);
    Pin(1);
    Serve(folder, shard_threads, announced[1], end[0]);
  });
  Announcement announcement;
  if (!MoveAll(announced[0], reinterpret_cast<char*>(&announcement), sizeof(announcement), false)) {
    Die("the server did not start");
  }
  {
    client::ClientOptions options;
    options.servers = {{0, {"127.0.0.1", announcement.port, announcement.unix_path}, 0}};
    options.secret = kSecret;
    options.transport = over_unix ? net::Transport::kUnix : net::Transport::kTcp;
    options.compression = wire::Compression::kNone;
    auto client = client::Client::Connect(options);
    Check(client.status());
    BareClient bare(address);
    OurClient ours(std::move(client).value());
    const char* kind = over_unix ? "unix" : "tcp";
    const char* only = std::getenv("PS_BENCH_ONLY");
    auto bare_pull = [&] { bare.Run(kKeyBytes, kRowBytes); };
    auto bare_push = [&] {
      bare.Run(kKeyBytes + kRowBytes, 0);
      bare.Run(0, 1);
    };
    for (const Row& row : std::vector<Row>{
             {"pull 53,248 keys x 64", bare_pull, [&] { ours.Pull(ours.keys(), kKeys); }, 7,
              kRowBytes, "floor 50, aim 80"},
             {"push 53,248 keys x 64, Adagrad", bare_push, [&] { ours.Push(ours.keys()); }, 7,
              kRowBytes, "floor 50, aim 80"},
             {"pull, keys that repeat", bare_pull, [&] { ours.Pull(ours.skewed(), kKeys); }, 7,
              kRowBytes, "for the reader"},
             {"push, keys that repeat", bare_push, [&] { ours.Push(ours.skewed()); }, 7, kRowBytes,
              "for the reader"},
             {"pull 16 keys against a 64-byte ping", [&] { bare.Run(0, kPingBytes); },
              [&] { ours.Pull(ours.keys(), 16); }, kPings, 0, "floor 3, aim 1.5"}}) {
      if (only != nullptr && std::strstr(row.name, only) == nullptr) continue;
      Measure(kind, row, rounds);
    }
    MeasureCpu(kind, "pulled", our_server, [&] { ours.Pull(ours.keys(), kKeys); });
    MeasureCpu(kind, "pushed", our_server, [&] { ours.Push(ours.keys()); });
    MeasureCpu(kind, "moved by the bare loop", bare_server, bare_pull);
  }
  close(end[0]);
  close(end[1]);
  waitpid(bare_server, nullptr, 0);
  waitpid(our_server, nullptr, 0);
  std::filesystem::remove_all(folder);
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 9;
  int shard_threads = argc > 2 ? std::max(1, std::atoi(argv[2])) : 2;
  utsname machine{};
  uname(&machine);
  Pin(0);
  std::printf(
      "client_bench: %s %s, %ld cores, %d shard threads, %d rounds; medians, ratios are medians of "
      "pairs\n",
      machine.machine, machine.release, sysconf(_SC_NPROCESSORS_ONLN), shard_threads, rounds);
  std::string kinds = argc > 3 ? argv[3] : "unix,tcp";
  if (kinds.find("unix") != std::string::npos) Bench(true, rounds, shard_threads);
  if (kinds.find("tcp") != std::string::npos) Bench(false, rounds, shard_threads);
  return 0;
}
