#include "ps/net/acceptor.h"

#include <sys/socket.h>

#include <algorithm>
#include <asio/post.hpp>
#include <cerrno>
#include <chrono>
#include <utility>

#include "ps/net/fork_guard.h"
#include "ps/wire/messages.h"

namespace ps::net {
namespace {

// Peers accepted before other work of the thread has its turn.
constexpr int kAcceptsAtOnce = 64;
// After an error that time may cure: no descriptors, no memory.
constexpr auto kPause = std::chrono::milliseconds(100);

// Errors of one peer, not of the listening socket: accept(2).
bool IsPeersError(int error) {
  return error == EINTR || error == ECONNABORTED || error == EPROTO || error == ENETDOWN ||
         error == ENOPROTOOPT || error == EHOSTDOWN || error == ENONET || error == EHOSTUNREACH ||
         error == EOPNOTSUPP || error == ENETUNREACH || error == EPERM;
}

Status MustMakeRoom() { return ResourceExhausted("more peers shake hands than there is room for"); }

}  // namespace

Acceptor::Door::Door(asio::io_context& context, Fd fd, bool is_unix_door)
    : socket(context, fd.release()), pause(context), is_unix(is_unix_door) {}

Acceptor::Acceptor(std::shared_ptr<ListenerCore> core, std::vector<asio::io_context*> contexts)
    : core_(std::move(core)), contexts_(std::move(contexts)) {}

void Acceptor::Listen(Fd fd, bool is_unix) {
  doors_.emplace_back(*contexts_.front(), std::move(fd), is_unix);
}

void Acceptor::Start() {
  for (Door& door : doors_) WaitForPeers(&door);
}

void Acceptor::Stop() {
  for (Door& door : doors_) {
    asio::error_code ignored;
    door.socket.close(ignored);
    door.pause.cancel();
  }
  while (!handshakes_.empty()) handshakes_.front()->Abort(ConnectionError("the listener ends"));
}

void Acceptor::CloseWithoutContext() {
  doors_.clear();
  for (auto& handshake : handshakes_) handshake->CloseWithoutContext();
  handshakes_.clear();
}

void Acceptor::WaitForPeers(Door* door) {
  door->socket.async_wait(asio::posix::stream_descriptor::wait_read,
                          [self = shared_from_this(), door](const asio::error_code& error) {
                            if (error || self->core_->stopped()) return;
                            self->AcceptPeers(door);
                          });
}

void Acceptor::AcceptPeers(Door* door) {
  for (int i = 0; i < kAcceptsAtOnce; ++i) {
    Fd fd(accept4(door->socket.native_handle(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (fd.valid()) {
      KeepFromForkedChildren(fd.get());
      Greet(std::move(fd), door->is_unix);
      continue;
    }
    if (errno == EAGAIN || errno == EWOULDBLOCK) break;
    if (IsPeersError(errno)) continue;
    return PauseThenWait(door);
  }
  WaitForPeers(door);
}

// Strangers give their descriptors back first.
void Acceptor::PauseThenWait(Door* door) {
  if (!handshakes_.empty()) handshakes_.front()->Abort(MustMakeRoom());
  door->pause.expires_after(kPause);
  door->pause.async_wait([self = shared_from_this(), door](const asio::error_code& error) {
    if (error || self->core_->stopped()) return;
    self->AcceptPeers(door);
  });
}

void Acceptor::Greet(Fd fd, bool is_unix) {
  if (handshakes_.size() >= core_->options.handshakes_max) {
    handshakes_.front()->Abort(MustMakeRoom());
  }
  TuneStreamSocket(fd.get(), is_unix, core_->options.peer_silence_ms);
  auto handshake = std::make_shared<ServerHandshake>(core_, *contexts_.front(), is_unix);
  handshakes_.push_back(handshake);
  auto place = std::prev(handshakes_.end());
  handshake->Start(std::move(fd), [self = shared_from_this(), place](
                                      const std::shared_ptr<ServerHandshake>& finished,
                                      Fd authenticated, std::unique_ptr<Stream> stream) {
    self->handshakes_.erase(place);
    if (!authenticated.valid()) return;
    self->Deal(std::move(authenticated), std::move(stream), finished->over_unix());
  });
}

void Acceptor::Deal(Fd fd, std::unique_ptr<Stream> stream, bool over_unix) {
  std::uint64_t id = dealt_ + 1;
  int index = static_cast<int>(dealt_ % contexts_.size());
  asio::io_context& context = *contexts_[static_cast<std::size_t>(index)];
  auto connection =
      std::make_shared<Connection>(core_, context, index, id, over_unix, PeerAddress(fd.get()));
  if (Status status = core_->Register(id, connection); !status.ok()) {
    WriteHandshakeFrame(stream.get(), over_unix, wire::MessageType::kError,
                        wire::EncodeError(status));
    return;
  }
  ++dealt_;
  WriteWelcome(stream.get(), fd.get(), over_unix, connection->OfferSharedMemory());
  asio::post(context, [connection, fd = std::move(fd), stream = std::move(stream)]() mutable {
    connection->Start(std::move(fd), std::move(stream));
  });
}

}  // namespace ps::net
