#pragma once

#include <asio/io_context.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/steady_timer.hpp>
#include <list>
#include <memory>
#include <vector>

#include "ps/net/server_handshake.h"

namespace ps::net {

// Accepts on listening sockets, shakes hands, and deals the authenticated connections out over the
// contexts in turn. All of it on the first context's thread, but for Stop.
class Acceptor : public std::enable_shared_from_this<Acceptor> {
 public:
  Acceptor(std::shared_ptr<ListenerCore> core, std::vector<asio::io_context*> contexts);

  void Listen(Fd fd, bool is_unix);  // before Start
  void Start();
  void Stop();                 // on the first context's thread
  void CloseWithoutContext();  // when that does not run

 private:
  struct Door {
    Door(asio::io_context& context, Fd fd, bool is_unix_door);
    asio::posix::stream_descriptor socket;
    asio::steady_timer pause;
    bool is_unix;
  };

  void WaitForPeers(Door* door);
  void AcceptPeers(Door* door);
  void PauseThenWait(Door* door);
  void Greet(Fd fd, bool is_unix);
  void Deal(Fd fd, std::unique_ptr<Stream> stream, bool over_unix);

  const std::shared_ptr<ListenerCore> core_;
  const std::vector<asio::io_context*> contexts_;
  std::list<Door> doors_;
  std::list<std::shared_ptr<ServerHandshake>> handshakes_;  // oldest first
  std::size_t dealt_ = 0;
};

}  // namespace ps::net
