// The client and a server process against bare sockets: pull and push of 53,248 keys of 64 floats
// (Adagrad applied), and of 16 keys, in turn with a bare loop that moves the same bytes over the
// same kind of socket. And what the machine allows: the same rows by known addresses.
//
//   ps_client_bench [rounds] [shard threads] [unix,tcp]
#include <sched.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <sstream>

#include "bench/bare_sockets.h"
#include "bench/known_rows.h"
#include "ps/client/client.h"
#include "ps/coordinator/coordinator.h"
#include "ps/server/server.h"

namespace {

using namespace ps;
using namespace ps::bench;

constexpr std::size_t kKeys = 53'248;
constexpr std::size_t kDim = 64;
constexpr std::size_t kKeyBytes = kKeys * sizeof(Key);
constexpr std::size_t kRowBytes = kKeys * kDim * sizeof(float);  // 13.6 MB
constexpr int kPings = 2'000;
const std::string kSecret = "the secret of a benchmark, 32 by";

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
  MoveAll(announce, &announcement, sizeof(announcement), true);
  char byte;
  MoveAll(end, &byte, 1, false);  // until the benchmark's process ends
}

// --- the client

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
  char measured[64];
  std::snprintf(measured, sizeof(measured), "%.3f + %.3f",
                (CpuSeconds(getpid()) - client) / millions,
                (CpuSeconds(server) - serving) / millions);
  Bar(std::string("CPU seconds per million rows ") + name + ", client + server, " + kind, measured,
      "", "");
}

// What the machine's memory allows: `work` on rows by their addresses, by one thread and by two,
// and what would be reached if that came after the bare loop and nothing else cost anything. The
// bare loop comes before each, so that the caches are as a request finds them.
void MeasureCeiling(const char* kind, const std::string& sockets, const std::string& name,
                    const std::function<void()>& bare, const std::function<void(Crew&)>& work,
                    int rounds) {
  constexpr int kRepeats = 7;
  Crew one(1), two(2);
  std::vector<double> alone, halves, shares;
  for (int i = 0; i < rounds * kRepeats; ++i) {
    const double bare_seconds = SecondsOf(bare, 1);
    halves.push_back(SecondsOf([&] { work(two); }, 1));
    shares.push_back(bare_seconds / (bare_seconds + halves.back()));
    bare();
    alone.push_back(SecondsOf([&] { work(one); }, 1));
  }
  char times[96];
  std::snprintf(times, sizeof(times), "; %.2f ms by two threads, %.2f by one", 1e3 * Median(halves),
                1e3 * Median(alone));
  Bar("ceiling: " + sockets + ", then " + name + " by known addresses, " + kind,
      Share(shares) + times, "", "");
}

// Holds all threads of a process to one core, or lets them go (-1).
void Place(pid_t process, int core) {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  for (int i = 0; i < sysconf(_SC_NPROCESSORS_ONLN); ++i) {
    if (core < 0 || i == core) CPU_SET(i, &cores);
  }
  const std::filesystem::path tasks = "/proc/" + std::to_string(process) + "/task";
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    const pid_t thread = std::atoi(task.path().filename().c_str());
    if (sched_setaffinity(thread, sizeof(cores), &cores) != 0) Die("sched_setaffinity");
  }
}

// Where the kernel puts the ends of a short exchange decides more than what they do: waking a core
// that sleeps takes longer than an exchange within one. So both pairs are also placed alike.
struct Placement {
  const char* name;
  int client;  // core, or -1: where the kernel likes
  int servers;
};
constexpr Placement kPlacements[] = {
    {"", -1, -1},
    {", all on one core", 0, 0},
    {", client and servers on a core each", 0, 1},
};

// A process that serves the bare loop, and its client. `end`: of a pipe that must not stay open in
// that process, because our server waits for it to close.
class BareLoop {
 public:
  BareLoop(const std::string& unix_path, BareTcp tcp, int end)
      : listening_(unix_path),
        process_(Fork([&] {
          close(end);
          listening_.Serve(kKeyBytes + kRowBytes, tcp);
        })),
        client_(std::make_unique<BareClient>(listening_.address, kKeyBytes + kRowBytes, tcp)) {}
  ~BareLoop() {
    client_.reset();
    waitpid(process_, nullptr, 0);
  }

  void Pull() { client_->Run(kKeyBytes, kRowBytes); }
  void Push() {
    client_->Run(kKeyBytes + kRowBytes, 0);
    client_->Run(0, 1);
  }
  void Ping() { client_->Run(0, kPingBytes); }
  pid_t process() const { return process_; }

 private:
  BareListener listening_;
  pid_t process_;
  std::unique_ptr<BareClient> client_;
};

// Rows whose name has PS_BENCH_ONLY in it, or all.
bool IsWanted(const std::string& name) {
  const char* only = std::getenv("PS_BENCH_ONLY");
  return only == nullptr || name.find(only) != std::string::npos;
}

struct Contest {
  const char* kind;
  BareLoop* bare;
  const char* against;
  bool has_bars;
};

void MeasureBulk(const Contest& contest, OurClient* ours, int rounds) {
  const auto pull = [&] { contest.bare->Pull(); };
  const auto push = [&] { contest.bare->Push(); };
  const auto measure = [&](const std::string& what, const std::function<void()>& bare,
                           const std::function<void()>& work, bool has_bar) {
    const std::string name = what + " against " + contest.against;
    if (!IsWanted(name)) return;
    Measure(contest.kind,
            {name.c_str(), bare, work, 7, kRowBytes, has_bar ? "50 %" : "", has_bar ? "80 %" : ""},
            rounds);
  };
  measure(
      "pull of 53,248 keys x 64", pull, [&] { ours->Pull(ours->keys(), kKeys); }, contest.has_bars);
  measure(
      "push of the same, Adagrad,", push, [&] { ours->Push(ours->keys()); }, contest.has_bars);
  measure(
      "pull, keys that repeat,", pull, [&] { ours->Pull(ours->skewed(), kKeys); }, false);
  measure(
      "push, keys that repeat,", push, [&] { ours->Push(ours->skewed()); }, false);
  if (!IsWanted("ceiling")) return;
  KnownRows rows(kKeys, kDim);
  const auto ceiling = [&](const char* work_name, const std::function<void()>& bare,
                           const std::function<void(Crew&)>& work) {
    MeasureCeiling(contest.kind, contest.against, work_name, bare, work, rounds);
  };
  ceiling("rows copied", pull, [&](Crew& crew) { rows.Gather(crew); });
  ceiling("Adagrad", push, [&](Crew& crew) { rows.Update(crew); });
}

void MeasurePings(const Contest& contest, OurClient* ours, pid_t our_server, int rounds) {
  const pid_t servers[] = {contest.bare->process(), our_server};
  for (const Placement& placement : kPlacements) {
    if (placement.servers >= sysconf(_SC_NPROCESSORS_ONLN)) continue;
    const std::string name = std::string("pull of 16 keys against a 64-byte ping") + placement.name;
    if (!IsWanted(name)) continue;
    Place(getpid(), placement.client);
    for (pid_t server : servers) Place(server, placement.servers);
    Measure(contest.kind,
            {name.c_str(), [&] { contest.bare->Ping(); }, [&] { ours->Pull(ours->keys(), 16); },
             kPings, 0, "3x", "1.5x"},
            rounds);
  }
  Place(getpid(), -1);
  for (pid_t server : servers) Place(server, -1);
}

void Bench(bool over_unix, int rounds, int shard_threads) {
  std::string folder = (std::filesystem::temp_directory_path() / "ps-bench-XXXXXX").string();
  if (mkdtemp(folder.data()) == nullptr) Die("mkdtemp");
  int announced[2], end[2];
  if (pipe(announced) != 0 || pipe(end) != 0) Die("pipe");
  pid_t our_server = Fork([&] {
    close(end[1]);
    Serve(folder, shard_threads, announced[1], end[0]);
  });
  Announcement announcement;
  if (!MoveAll(announced[0], &announcement, sizeof(announcement), false)) {
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
    OurClient ours(std::move(client).value());
    const char* kind = over_unix ? "unix" : "tcp";
    BareLoop bare(over_unix ? folder + "/bare" : "", BareTcp::kSystems, end[1]);
    const Contest contest{kind, &bare, "bare sockets", true};
    MeasureBulk(contest, &ours, rounds);
    if (!over_unix) {
      BareLoop unpaced("", BareTcp::kUnpaced, end[1]);
      MeasureBulk({kind, &unpaced, "bare sockets without pacing", false}, &ours, rounds);
    }
    MeasurePings(contest, &ours, our_server, rounds);
    MeasureCpu(kind, "pulled", our_server, [&] { ours.Pull(ours.keys(), kKeys); });
    MeasureCpu(kind, "pushed", our_server, [&] { ours.Push(ours.keys()); });
    MeasureCpu(kind, "moved by the bare loop", bare.process(), [&] { bare.Pull(); });
  }
  close(end[0]);
  close(end[1]);
  waitpid(our_server, nullptr, 0);
  std::filesystem::remove_all(folder);
}

}  // namespace

int main(int argc, char** argv) {
  int rounds = argc > 1 ? std::max(1, std::atoi(argv[1])) : 27;
  int shard_threads = argc > 2 ? std::max(1, std::atoi(argv[2])) : 2;
  utsname machine{};
  uname(&machine);
  std::printf(
      "client_bench: %s %s, %ld cores, %d shard threads, %d rounds; medians, ratios are medians of "
      "pairs\n",
      machine.machine, machine.release, sysconf(_SC_NPROCESSORS_ONLN), shard_threads, rounds);
  std::string kinds = argc > 3 ? argv[3] : "unix,tcp";
  if (kinds.find("unix") != std::string::npos) Bench(true, rounds, shard_threads);
  if (kinds.find("tcp") != std::string::npos) Bench(false, rounds, shard_threads);
  return 0;
}
