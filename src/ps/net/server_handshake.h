#pragma once

#include <array>
#include <asio/steady_timer.hpp>
#include <functional>
#include <memory>
#include <string>

#include "ps/net/server_connection.h"

namespace ps::net {

// The accepting side of one handshake, that of TLS first where the listener has it, under a time
// limit, on one thread. Until it is through, the peer gets 80 bytes of memory (and what TLS needs)
// and may send nothing but two frames of exactly that size.
class ServerHandshake : public std::enable_shared_from_this<ServerHandshake> {
 public:
  // Called once, on the context's thread: with the open socket of a peer that knows the secret (the
  // welcome is not sent yet) and its stream, or an invalid one.
  using Done =
      std::function<void(const std::shared_ptr<ServerHandshake>&, Fd, std::unique_ptr<Stream>)>;

  ServerHandshake(std::shared_ptr<ListenerCore> core, asio::io_context& context, bool over_unix);

  void Start(Fd fd, Done done);
  void Abort(const Status& why);  // closes; `done` is called with an invalid socket
  void CloseWithoutContext();
  bool over_unix() const { return over_unix_; }

 private:
  Status Open(Fd fd);
  void ShakeStreamHands();
  void OnForeignStream(const Status& why);
  void Read();
  void OnRead(const Result<std::size_t>& got);
  Status TakeFrame();
  Status AnswerHello(std::span<const std::byte> payload);
  Status CheckProof(std::span<const std::byte> payload);
  void Finish(const Status& status);

  const std::shared_ptr<ListenerCore> core_;
  const bool over_unix_;
  std::string peer_;
  std::unique_ptr<StreamSocket> socket_;
  std::unique_ptr<Stream> stream_;
  std::unique_ptr<asio::steady_timer> timer_;
  Done done_;
  bool hello_seen_ = false;
  bool proof_seen_ = false;
  wire::Nonce client_nonce_;
  wire::Nonce server_nonce_;
  std::array<std::byte, wire::kFrameHeaderBytes + sizeof(wire::Nonce)> frame_;
  std::size_t arrived_ = 0;
};

// Writes one frame to a fresh socket, which has room for it. False when it does not take it whole.
bool WriteHandshakeFrame(Stream* stream, bool over_unix, wire::MessageType type,
                         std::span<const std::byte> payload);
// The frame that ends a handshake, with a descriptor where it is not -1.
bool WriteWelcome(Stream* stream, int socket, bool over_unix, int descriptor);

}  // namespace ps::net
