#pragma once

#include <sys/types.h>

#include <string>

#include "ps/base/status.h"
#include "ps/net/socket.h"

namespace ps::net {

// A bound and listening TCP socket and the port it got.
struct TcpListeningSocket {
  Fd fd;
  int port = 0;
};

// Binds to `host` (empty: all interfaces, IPv6 and IPv4). port_base 0: a port of the system's
// choice; else the first free one of ports_tried_max from port_base on. InvalidArgument,
// ConnectionError (no free port; the message names the range).
Result<TcpListeningSocket> ListenTcp(const std::string& host, int port_base, int ports_tried_max);

// A listening Unix socket and the file that names it, mode 0600. The file is removed on
// destruction, unless another process has put its own there meanwhile.
class UnixListeningSocket {
 public:
  UnixListeningSocket() = default;
  UnixListeningSocket(UnixListeningSocket&& other) noexcept;
  UnixListeningSocket& operator=(UnixListeningSocket&& other) noexcept;
  ~UnixListeningSocket();

  // Takes the place of a socket file nobody listens on. InvalidArgument when the path is too long,
  // is not a socket, or a living process listens there.
  static Result<UnixListeningSocket> Listen(const std::string& path);

  const std::string& path() const { return path_; }
  Fd TakeFd() { return std::move(fd_); }
  void RemoveFile();

 private:
  Fd fd_;
  std::string path_;  // empty: nothing to remove
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace ps::net
