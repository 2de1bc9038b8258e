#include "ps/testing/message_proxy.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "ps/wire/frame.h"

namespace ps::testing {
namespace {

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

bool ReadAll(int fd, char* out, std::size_t bytes) {
  while (bytes > 0) {
    ssize_t got = recv(fd, out, bytes, 0);
    if (got <= 0) return false;
    out += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

bool WriteAll(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    ssize_t sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

void ShutDown(const net::Fd& fd) { shutdown(fd.get(), SHUT_RDWR); }

}  // namespace

MessageProxy::MessageProxy(int server_port)
    : server_port_(server_port), listener_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  auto* name = reinterpret_cast<sockaddr*>(&address);
  if (bind(listener_.get(), name, size) != 0 || listen(listener_.get(), 16) != 0 ||
      getsockname(listener_.get(), name, &size) != 0) {
    std::perror("message proxy");
    std::abort();
  }
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

MessageProxy::~MessageProxy() {
  is_ending_ = true;
  ShutDown(listener_);
  acceptor_.join();
  {
    std::lock_guard lock(mutex_);
    replied_.notify_all();
    for (Connection& connection : connections_) {
      ShutDown(connection.client);
      ShutDown(connection.server);
    }
  }
  for (Connection& connection : connections_) {
    for (std::thread& pump : connection.pumps) pump.join();
  }
}

void MessageProxy::Strike(Direction direction, Fault fault, int nth) {
  std::lock_guard lock(mutex_);
  direction_ = direction;
  fault_ = fault;
  frames_left_ = nth;
}

bool MessageProxy::TakeBack() {
  std::lock_guard lock(mutex_);
  return !std::exchange(fault_, std::nullopt).has_value();
}

void MessageProxy::Accept() {
  while (!is_ending_) {
    net::Fd client(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!client.valid()) continue;
    net::Fd server(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address = Loopback(server_port_);
    if (connect(server.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
      continue;
    net::TuneStreamSocket(client.get(), /*is_unix=*/false);
    net::TuneStreamSocket(server.get(), /*is_unix=*/false);
    std::lock_guard lock(mutex_);
    Connection& connection = connections_.emplace_back();
    connection.client = std::move(client);
    connection.server = std::move(server);
    connection.pumps.emplace_back([this, &connection] { Pump(&connection, Direction::kToServer); });
    connection.pumps.emplace_back([this, &connection] { Pump(&connection, Direction::kToClient); });
  }
}

void MessageProxy::Pump(Connection* connection, Direction direction) {
  bool to_server = direction == Direction::kToServer;
  int from = to_server ? connection->client.get() : connection->server.get();
  int to = to_server ? connection->server.get() : connection->client.get();
  std::string frame;
  bool more = false;
  bool is_data = false;
  bool is_late = false;
  while (ReadFrame(from, &frame, &more, &is_data)) {
    if (auto fault = FaultOfNextFrame(direction)) {
      is_late = *fault == Fault::kDeliverLate;
      if (!StrikeFrame(connection, direction, *fault, std::move(frame), more, is_data)) break;
      continue;
    }
    if (!WriteAll(to, frame)) break;
    if (to_server || more) continue;
    std::lock_guard lock(mutex_);
    ++replies_;
    replied_.notify_all();
  }
  ShutDown(connection->client);
  if (!is_late) ShutDown(connection->server);
}

std::optional<MessageProxy::Fault> MessageProxy::FaultOfNextFrame(Direction direction) {
  std::lock_guard lock(mutex_);
  if (!fault_ || direction != direction_ || frames_left_-- > 0) return std::nullopt;
  return std::exchange(fault_, std::nullopt);
}

bool MessageProxy::ReadFrame(int fd, std::string* frame, bool* more, bool* is_data) {
  frame->resize(wire::kFrameHeaderBytes);
  if (!ReadAll(fd, frame->data(), frame->size())) return false;
  auto header = wire::DecodeHeader(std::as_bytes(std::span<const char, wire::kFrameHeaderBytes>(
                                       frame->data(), wire::kFrameHeaderBytes)),
                                   limits::kFramePayloadBytesMax);
  if (!header.ok()) return false;
  *more = (header->flags & wire::kMore) != 0;
  *is_data = header->type >= wire::MessageType::kPull;  // not of the handshake
  frame->resize(wire::kFrameHeaderBytes + header->payload_bytes);
  return ReadAll(fd, frame->data() + wire::kFrameHeaderBytes, header->payload_bytes);
}

// Adds the frames that follow until the message is whole.
bool MessageProxy::ReadRest(int fd, std::string* message, bool more) {
  std::string frame;
  bool is_data = false;
  while (more) {
    if (!ReadFrame(fd, &frame, &more, &is_data)) return false;
    *message += frame;
  }
  return true;
}

// False: the connection ends.
bool MessageProxy::StrikeFrame(Connection* connection, Direction direction, Fault fault,
                               std::string frame, bool more, bool is_data) {
  bool to_server = direction == Direction::kToServer;
  int from = to_server ? connection->client.get() : connection->server.get();
  int to = to_server ? connection->server.get() : connection->client.get();
  switch (fault) {
    case Fault::kCutBefore:
      return false;
    case Fault::kCutAmid:
      WriteAll(to, std::string_view(frame).substr(0, frame.size() / 2));
      return false;
    case Fault::kCutAfter:
      WriteAll(to, frame);
      return false;
    case Fault::kDelay:
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      return WriteAll(to, frame);
    case Fault::kDuplicate:
    case Fault::kDeliverLate:
      break;
  }
  // Of a message that began before the strike: what is left of it.
  std::string message = std::move(frame);
  if (!ReadRest(from, &message, more)) return false;
  if (!is_data) return WriteAll(to, message);
  if (fault == Fault::kDuplicate) return WriteAll(to, message) && WriteAll(to, message);
  DeliverLate(connection, message);
  return false;
}

void MessageProxy::DeliverLate(Connection* connection, const std::string& bytes) {
  std::unique_lock lock(mutex_);
  std::uint64_t before = replies_;
  ShutDown(connection->client);
  // The handshake of the client's next connection makes two replies; its request the third.
  replied_.wait_for(lock, std::chrono::seconds(10),
                    [&] { return is_ending_ || replies_ >= before + 3; });
  lock.unlock();
  WriteAll(connection->server.get(), bytes);
}

}  // namespace ps::testing
