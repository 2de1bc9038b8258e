#pragma once

#include <asio/buffer.hpp>
#include <asio/generic/stream_protocol.hpp>
#include <asio/post.hpp>
#include <span>
#include <utility>

#include "ps/net/stream.h"

namespace ps::net {

using StreamSocket = asio::generic::stream_protocol::socket;

// Reads through `stream`, whose socket is `socket`, without blocking. `handler` is called with a
// Result<std::size_t> on the socket's context, never from within; 0 bytes: read on. Both objects
// may go before it is called, `out` may not.
template <typename Handler>
void AsyncReadSome(StreamSocket* socket, Stream* stream, std::span<std::byte> out,
                   Handler handler) {
  auto outcome = [](const asio::error_code& error, std::size_t bytes) -> Result<std::size_t> {
    if (!error) return bytes;
    return ConnectionError(error == asio::error::eof ? "the peer closed the connection"
                                                     : "receiving failed: " + error.message());
  };
  if (stream->is_plain()) {
    socket->async_read_some(asio::buffer(out.data(), out.size()),
                            [handler = std::move(handler), outcome](const asio::error_code& error,
                                                                    std::size_t bytes) mutable {
                              handler(outcome(error, bytes));
                            });
    return;
  }
  Result<std::size_t> got = stream->ReadSome(out);
  if (!got.ok() || *got > 0) {
    asio::post(socket->get_executor(),
               [handler = std::move(handler), got = std::move(got)]() mutable { handler(got); });
    return;
  }
  socket->async_wait(asio::socket_base::wait_read,
                     [handler = std::move(handler), outcome](
                         const asio::error_code& error) mutable { handler(outcome(error, 0)); });
}

}  // namespace ps::net
