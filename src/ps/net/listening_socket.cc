#include "ps/net/listening_socket.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include "ps/net/endpoint.h"
#include "ps/net/fork_guard.h"
#include "ps/net/resolve.h"

namespace ps::net {
namespace {

constexpr int kBacklog = 1'024;  // the system caps it at net.core.somaxconn
constexpr auto kResolveTimeout = std::chrono::seconds(10);

void SetPort(SocketAddress* address, int port) {
  auto value = htons(static_cast<std::uint16_t>(port));
  if (address->family() == AF_INET6) {
    reinterpret_cast<sockaddr_in6*>(&address->storage)->sin6_port = value;
  } else {
    reinterpret_cast<sockaddr_in*>(&address->storage)->sin_port = value;
  }
}

int PortOf(int fd) {
  sockaddr_storage bound{};
  socklen_t bytes = sizeof(bound);
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&bound), &bytes) != 0) return 0;
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                           : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
}

// 0, or the errno of the step that failed.
int TryListen(const SocketAddress& address, bool also_v4, Fd* out) {
  Fd fd(socket(address.family(), SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return errno;
  KeepFromForkedChildren(fd.get());
  int yes = 1;
  int v6_only = also_v4 ? 0 : 1;
  (void)setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (address.family() == AF_INET6) {
    (void)setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &v6_only, sizeof(v6_only));
  }
  if (bind(fd.get(), address.get(), address.bytes) != 0) return errno;
  if (listen(fd.get(), kBacklog) != 0) return errno;
  *out = std::move(fd);
  return 0;
}

// `host`: of the address, for messages.
Result<TcpListeningSocket> ListenFrom(SocketAddress address, const std::string& host, bool also_v4,
                                      int port_base, int ports_tried_max) {
  int tried_max = port_base == 0 ? 1 : std::min(ports_tried_max, kPortMax - port_base + 1);
  for (int i = 0; i < tried_max; ++i) {
    SetPort(&address, port_base + i);
    TcpListeningSocket listening;
    int error = TryListen(address, also_v4, &listening.fd);
    if (error == 0) {
      listening.port = PortOf(listening.fd.get());
      return listening;
    }
    if (error != EADDRINUSE) {
      return ConnectionError("cannot listen on " + Endpoint{host, port_base + i, ""}.ToString() +
                             ": " + ErrnoText(error));
    }
  }
  return ConnectionError("no free port on " + host + " from " + std::to_string(port_base) + " to " +
                         std::to_string(port_base + tried_max - 1) +
                         "; choose another port_base, or 0 for any free port");
}

Result<bool> SomeoneListens(const SocketAddress& address) {
  PS_ASSIGN_OR_RETURN(Fd probe, OpenStreamSocket(AF_UNIX));
  if (connect(probe.get(), address.get(), address.bytes) == 0) return true;
  return errno != ECONNREFUSED && errno != ENOENT;
}

Status RemoveStaleFile(const std::string& path, const SocketAddress& address) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0) return Status::Ok();
  if (!S_ISSOCK(info.st_mode)) {
    return InvalidArgument("socket path '" + path + "' is a file of another kind; choose another");
  }
  PS_ASSIGN_OR_RETURN(bool taken, SomeoneListens(address));
  if (taken) {
    return InvalidArgument("socket path '" + path + "': another process listens there");
  }
  if (unlink(path.c_str()) != 0 && errno != ENOENT) {
    return InvalidArgument("socket path '" + path +
                           "': cannot remove the stale file: " + ErrnoText(errno));
  }
  return Status::Ok();
}

}  // namespace

Result<TcpListeningSocket> ListenTcp(const std::string& host, int port_base, int ports_tried_max) {
  if (port_base < 0 || port_base > kPortMax || ports_tried_max < 1) {
    return InvalidArgument("port " + std::to_string(port_base) + " is not from 0 to 65535");
  }
  auto deadline = Now() + kResolveTimeout;
  if (!host.empty()) {
    PS_ASSIGN_OR_RETURN(auto addresses, Resolve(host, port_base, deadline));
    return ListenFrom(addresses.front(), host, false, port_base, ports_tried_max);
  }
  PS_ASSIGN_OR_RETURN(auto any_v6, Resolve("::", port_base, deadline));
  auto listening = ListenFrom(any_v6.front(), "::", true, port_base, ports_tried_max);
  if (listening.ok()) return listening;
  // A host without IPv6.
  PS_ASSIGN_OR_RETURN(auto any_v4, Resolve("0.0.0.0", port_base, deadline));
  return ListenFrom(any_v4.front(), "0.0.0.0", false, port_base, ports_tried_max);
}

UnixListeningSocket::UnixListeningSocket(UnixListeningSocket&& other) noexcept
    : fd_(std::move(other.fd_)),
      path_(std::exchange(other.path_, {})),
      device_(other.device_),
      inode_(other.inode_) {}

UnixListeningSocket& UnixListeningSocket::operator=(UnixListeningSocket&& other) noexcept {
  if (this == &other) return *this;
  RemoveFile();
  fd_ = std::move(other.fd_);
  path_ = std::exchange(other.path_, {});
  device_ = other.device_;
  inode_ = other.inode_;
  return *this;
}

UnixListeningSocket::~UnixListeningSocket() { RemoveFile(); }

Result<UnixListeningSocket> UnixListeningSocket::Listen(const std::string& path) {
  PS_ASSIGN_OR_RETURN(SocketAddress address, UnixAddress(path));
  PS_RETURN_IF_ERROR(RemoveStaleFile(path, address));
  PS_ASSIGN_OR_RETURN(Fd fd, OpenStreamSocket(AF_UNIX));
  // On Linux the mode of the socket becomes the mode of its file.
  (void)fchmod(fd.get(), 0600);
  struct stat info {};
  if (bind(fd.get(), address.get(), address.bytes) != 0) {
    return InvalidArgument("socket path '" + path + "': cannot listen there: " + ErrnoText(errno));
  }
  UnixListeningSocket listening;
  if (lstat(path.c_str(), &info) == 0) {
    listening.path_ = path;
    listening.device_ = info.st_dev;
    listening.inode_ = info.st_ino;
  }
  if (listen(fd.get(), kBacklog) != 0) {
    return ConnectionError("socket path '" + path + "': cannot listen: " + ErrnoText(errno));
  }
  listening.fd_ = std::move(fd);
  return listening;
}

void UnixListeningSocket::RemoveFile() {
  if (path_.empty()) return;
  struct stat info {};
  bool is_ours =
      lstat(path_.c_str(), &info) == 0 && info.st_dev == device_ && info.st_ino == inode_;
  if (is_ours) unlink(path_.c_str());
  path_.clear();
}

}  // namespace ps::net
