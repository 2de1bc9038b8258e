// The wire against bare sockets: the same bytes over the same kind of socket, client and server in
// two processes, in turn within one run. Prints ratios; the bars are in the benchmarks' document.
//
//   ps_wire_bench [rounds]
#include <sys/utsname.h>
#include <sys/wait.h>

#include <asio/io_context.hpp>
#include <memory>

#include "bench/bare_sockets.h"
#include "ps/net/client_connection.h"
#include "ps/net/listener.h"
#include "ps/wire/messages.h"

namespace {

using namespace ps;
using namespace ps::net;
using namespace ps::bench;

constexpr std::size_t kKeys = 53'248;
constexpr std::size_t kDim = 64;
constexpr std::size_t kBulkBytes = kKeys * kDim * sizeof(float);  // 13.6 MB
constexpr std::size_t kSmallKeys = 16;
constexpr std::size_t kSmallReplyBytes =
    wire::kSectionHeadBytes + kSmallKeys * kDim * sizeof(float);
constexpr std::size_t kFramesOfAPull = 6;  // 10,000 keys each
constexpr int kPingsPerRound = 2'000;
const std::string kSecret = "the secret of a benchmark, 32 by";
const wire::Identity kIdentity{0, 1};

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

void Bench(bool over_unix, int rounds) {
  std::string bare_path = "/tmp/ps_wire_bench_bare_" + std::to_string(getpid());
  std::string our_path = "/tmp/ps_wire_bench_" + std::to_string(getpid());
  BareListener listening(over_unix ? bare_path : "");
  pid_t bare_server = Fork([&] { listening.Serve(kBulkBytes); });

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
    MoveAll(port_pipe[1], &port, sizeof(port), true);
    context.run();
  });
  ConnectOptions options;
  if (!MoveAll(port_pipe[0], &options.endpoint.port, sizeof(int), false)) Die("no port");
  options.endpoint.host = "127.0.0.1";
  options.endpoint.unix_path = our_path;
  options.transport = over_unix ? Transport::kUnix : Transport::kTcp;
  options.secret = kSecret;
  options.expected = kIdentity;
  auto connection = ClientConnection::Connect(options, Soon());
  Check(connection.status());
  {
    BareClient bare(listening.address, kBulkBytes);
    OurClient ours(std::move(connection).value());
    const char* kind = over_unix ? "unix" : "tcp";
    std::size_t keys_bytes = wire::kSectionHeadBytes + kKeys * sizeof(Key);
    std::vector<Row> rows = {
        {"pull 13.6 MB, one frame", [&] { bare.Run(keys_bytes, kBulkBytes); },
         [&] { ours.Pull(keys_bytes, kBulkBytes, 1); }, 7, kBulkBytes, "50 %", "80 %"},
        {"pull 13.6 MB, six frames", [&] { bare.Run(keys_bytes, kBulkBytes); },
         [&] { ours.Pull(keys_bytes, kBulkBytes, kFramesOfAPull); }, 7, kBulkBytes, "50 %", "80 %"},
        {"push 13.6 MB", [&] { bare.Run(kBulkBytes, kPingBytes); }, [&] { ours.Push(kBulkBytes); },
         7, kBulkBytes, "50 %", "80 %"},
        // No bars: neither end waits awake here, as client and servers do (base/spin_wait.h).
        {"16 keys against a ping", [&] { bare.Run(0, kPingBytes); },
         [&] { ours.Pull(wire::kSectionHeadBytes + kSmallKeys * 8, kSmallReplyBytes, 1); },
         kPingsPerRound, 0, "", ""},
        {"empty frame against a ping", [&] { bare.Run(0, kPingBytes); },
         [&] { ours.Pull(0, 0, 1); }, kPingsPerRound, 0, "", ""},
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
