#include "ps/net/listener.h"

#include <asio/post.hpp>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "ps/net/acceptor.h"
#include "ps/net/listener_core.h"
#include "ps/net/listening_socket.h"
#include "ps/net/server_connection.h"
#include "ps/net/stall_clock.h"

namespace ps::net {
namespace {

// How long the destructor waits for a context that is neither stopped nor run by a thread.
constexpr auto kCloseTimeout = std::chrono::seconds(2);
constexpr auto kClosePoll = std::chrono::milliseconds(10);

// Tells whether a context has run what was posted to it so far.
struct Marker {
  std::mutex mutex;
  std::condition_variable reached_changed;
  bool reached = false;

  void Reach() {
    std::lock_guard lock(mutex);
    reached = true;
    reached_changed.notify_all();
  }
};

class ListenerImpl final : public Listener {
 public:
  ListenerImpl(const std::shared_ptr<ListenerCore>& core, std::vector<asio::io_context*> contexts,
               int port, UnixListeningSocket unix_socket)
      : core_(core),
        contexts_(std::move(contexts)),
        acceptor_(std::make_shared<Acceptor>(core, contexts_)),
        port_(port),
        unix_path_(unix_socket.path()),
        unix_socket_(std::move(unix_socket)) {
    for (asio::io_context* context : contexts_) {
      stall_clocks_.push_back(std::make_shared<StallClock>(core, *context));
    }
  }

  ~ListenerImpl() override;
  void Start(Fd tcp);
  int port() const override { return port_; }
  const std::string& unix_path() const override { return unix_path_; }
  ListenerStats Stats() const override;
  void Stop() override;

 private:
  bool WaitUntilIdle(asio::io_context& context);

  const std::shared_ptr<ListenerCore> core_;
  const std::vector<asio::io_context*> contexts_;
  std::shared_ptr<Acceptor> acceptor_;
  std::vector<std::shared_ptr<StallClock>> stall_clocks_;  // one for each context
  const int port_;
  const std::string unix_path_;
  std::mutex stop_mutex_;
  UnixListeningSocket unix_socket_;
};

void ListenerImpl::Start(Fd tcp) {
  acceptor_->Listen(std::move(tcp), false);
  if (!unix_path_.empty()) acceptor_->Listen(unix_socket_.TakeFd(), true);
  asio::post(*contexts_.front(), [acceptor = acceptor_, core = core_] {
    if (!core->stopped()) acceptor->Start();
  });
  for (const auto& clock : stall_clocks_) {
    asio::post(clock->context(), [clock, core = core_] {
      if (!core->stopped()) clock->Start();
    });
  }
}

ListenerStats ListenerImpl::Stats() const {
  ListenerStats stats;
  stats.connections_open = core_->connections_open();
  stats.connections_total = core_->connections_total;
  stats.authentication_failures_total = core_->authentication_failures_total;
  stats.bad_frames_total = core_->bad_frames_total;
  stats.stalled_total = core_->stalled_total;
  stats.bytes_received_total = core_->bytes_received_total;
  stats.bytes_sent_total = core_->bytes_sent_total;
  return stats;
}

void ListenerImpl::Stop() {
  std::lock_guard lock(stop_mutex_);
  if (core_->stopped()) return;
  unix_socket_.RemoveFile();
  auto open = core_->Stop();
  asio::post(*contexts_.front(), [acceptor = acceptor_] { acceptor->Stop(); });
  for (const auto& clock : stall_clocks_) {
    asio::post(clock->context(), [clock] { clock->Stop(); });
  }
  for (auto& connection : open) connection->Close();
}

// True when the context has run all that Stop gave it, OnClose included. False: it does not run.
bool ListenerImpl::WaitUntilIdle(asio::io_context& context) {
  if (context.stopped() || context.get_executor().running_in_this_thread()) return false;
  auto marker = std::make_shared<Marker>();
  // Twice: closing a connection posts its OnClose.
  asio::post(context, [&context, marker] { asio::post(context, [marker] { marker->Reach(); }); });
  auto deadline = Now() + kCloseTimeout;
  std::unique_lock lock(marker->mutex);
  while (!marker->reached && !context.stopped() && Now() < deadline) {
    marker->reached_changed.wait_for(lock, kClosePoll);
  }
  return marker->reached;
}

ListenerImpl::~ListenerImpl() {
  Stop();
  bool first_is_idle = WaitUntilIdle(*contexts_.front());
  for (std::size_t i = 1; i < contexts_.size(); ++i) (void)WaitUntilIdle(*contexts_[i]);
  core_->Detach();
  if (!first_is_idle) acceptor_->CloseWithoutContext();
  for (auto& connection : core_->Stop()) connection->CloseWithoutContext();
}

Status CheckOptions(const ListenerOptions& options,
                    const std::vector<asio::io_context*>& contexts) {
  if (contexts.empty()) return InvalidArgument("a listener needs at least one context");
  if (options.secret.size() < wire::kSecretBytesMin) {
    return InvalidArgument("the job's secret has " + std::to_string(options.secret.size()) +
                           " bytes; at least " + std::to_string(wire::kSecretBytesMin) +
                           " are needed");
  }
  if (options.payload_bytes_max > limits::kFramePayloadBytesMax) {
    return InvalidArgument("payload_bytes_max " + std::to_string(options.payload_bytes_max) +
                           " is above the limit of " +
                           std::to_string(limits::kFramePayloadBytesMax));
  }
  if (options.handshakes_max < 1 || options.handshake_timeout_ms < 1 ||
      options.unanswered_max < 1 || options.stall_timeout_ms < Connection::kStallChecks) {
    return InvalidArgument(
        "handshakes_max, handshake_timeout_ms and unanswered_max must be at least 1, "
        "stall_timeout_ms at least " +
        std::to_string(Connection::kStallChecks));
  }
  return Status::Ok();
}

}  // namespace

Result<std::unique_ptr<Listener>> Listener::Start(ListenerOptions options,
                                                  std::vector<asio::io_context*> contexts,
                                                  FrameHandler* handler) {
  PS_RETURN_IF_ERROR(CheckOptions(options, contexts));
  PS_ASSIGN_OR_RETURN(TcpListeningSocket tcp,
                      ListenTcp(options.host, options.port_base, options.ports_tried_max));
  UnixListeningSocket unix_socket;
  if (!options.unix_path.empty()) {
    PS_ASSIGN_OR_RETURN(unix_socket, UnixListeningSocket::Listen(options.unix_path));
  }
  auto core = std::make_shared<ListenerCore>(std::move(options), handler);
  auto listener =
      std::make_unique<ListenerImpl>(core, std::move(contexts), tcp.port, std::move(unix_socket));
  listener->Start(std::move(tcp.fd));
  return std::unique_ptr<Listener>(std::move(listener));
}

}  // namespace ps::net
