#pragma once

#include <atomic>
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "ps/net/socket.h"

namespace ps::testing {

// A TCP relay before one server that knows where messages begin and end, and strikes one of them.
class MessageProxy {
 public:
  enum class Direction { kToServer, kToClient };
  enum class Fault {
    kCutBefore,    // the connection ends before the frame
    kCutAmid,      // after half of its bytes
    kCutAfter,     // right after it
    kDelay,        // the frame waits until the connection would long have moved on (20 ms)
    kDuplicate,    // the frame and what follows of its message is delivered twice (no handshake)
    kDeliverLate,  // to the server: the client loses its connection; the server gets the frame and
                   // what follows of its message after it has answered one that came later, on
                   // another connection
  };

  explicit MessageProxy(int server_port);
  ~MessageProxy();
  int port() const { return port_; }

  // The frame number `nth` (from 0, handshakes included) that comes in that direction from now on,
  // over all connections, meets the fault. One strike at a time.
  void Strike(Direction direction, Fault fault, int nth);
  // Whether the last strike met a frame; takes back one that did not.
  bool TakeBack();

 private:
  struct Connection {
    net::Fd client;
    net::Fd server;
    std::vector<std::thread> pumps;
  };
  void Accept();
  void Pump(Connection* connection, Direction direction);
  std::optional<Fault> FaultOfNextFrame(Direction direction);
  bool ReadFrame(int fd, std::string* frame, bool* more, bool* is_data);
  bool ReadRest(int fd, std::string* message, bool more);
  bool StrikeFrame(Connection* connection, Direction direction, Fault fault, std::string frame,
                   bool more, bool is_data);
  void DeliverLate(Connection* connection, const std::string& bytes);

  const int server_port_;
  int port_ = 0;
  net::Fd listener_;
  std::thread acceptor_;
  std::mutex mutex_;
  std::condition_variable replied_;
  std::list<Connection> connections_;
  Direction direction_ = Direction::kToServer;
  std::optional<Fault> fault_;
  int frames_left_ = 0;
  std::uint64_t replies_ = 0;  // forwarded to clients
  std::atomic<bool> is_ending_{false};
};

}  // namespace ps::testing
