#include "ps/net/resolve.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

namespace ps::net {
namespace {

constexpr int kLookupsMax = 64;
std::atomic<int> lookups_running{0};

struct Answer {
  int error = 0;
  std::vector<SocketAddress> addresses;
};

Answer LookUp(const std::string& host, int port, int flags) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  Answer answer;
  answer.error = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (answer.error != 0) return answer;
  for (addrinfo* next = found; next != nullptr; next = next->ai_next) {
    SocketAddress address;
    std::memcpy(&address.storage, next->ai_addr, next->ai_addrlen);
    address.bytes = next->ai_addrlen;
    answer.addresses.push_back(address);
  }
  freeaddrinfo(found);
  return answer;
}

// Shared by the caller and the looking thread; whoever is last frees it.
struct Lookup {
  std::mutex mutex;
  std::condition_variable done_changed;
  bool done = false;
  Answer answer;
};

Status StartLookup(const std::shared_ptr<Lookup>& lookup, const std::string& host, int port) {
  if (lookups_running.fetch_add(1) >= kLookupsMax) {
    lookups_running.fetch_sub(1);
    return ResourceExhausted(
        "cannot look up host '" + host + "': " + std::to_string(kLookupsMax) +
        " look-ups hang already; the resolver of this machine does not answer");
  }
  try {
    std::thread([lookup, host, port] {
      Answer answer = LookUp(host, port, 0);
      {
        std::lock_guard lock(lookup->mutex);
        lookup->answer = std::move(answer);
        lookup->done = true;
      }
      lookup->done_changed.notify_one();
      lookups_running.fetch_sub(1);
    }).detach();
  } catch (const std::system_error& error) {
    lookups_running.fetch_sub(1);
    return ResourceExhausted("cannot look up host '" + host + "': " + error.what());
  }
  return Status::Ok();
}

}  // namespace

Result<std::vector<SocketAddress>> Resolve(const std::string& host, int port, SteadyTime deadline,
                                           const IsInterrupted& is_interrupted) {
  Answer answer = LookUp(host, port, AI_NUMERICHOST);
  if (answer.error == EAI_NONAME) {
    auto lookup = std::make_shared<Lookup>();
    PS_RETURN_IF_ERROR(StartLookup(lookup, host, port));
    std::unique_lock lock(lookup->mutex);
    while (!lookup->done) {
      SteadyTime now = Now();
      if (now >= deadline) {
        return TimeoutError("timed out while looking up host '" + host + "'");
      }
      if (is_interrupted && is_interrupted()) {
        return Status(StatusCode::kClosed, "interrupted while looking up host '" + host + "'");
      }
      lookup->done_changed.wait_until(lock, std::min(deadline, now + kInterruptInterval));
    }
    answer = std::move(lookup->answer);
  }
  if (answer.error != 0 || answer.addresses.empty()) {
    return ConnectionError("host '" + host + "' has no address: " + gai_strerror(answer.error));
  }
  return std::move(answer.addresses);
}

Result<SocketAddress> UnixAddress(const std::string& path) {
  SocketAddress address;
  auto* name = reinterpret_cast<sockaddr_un*>(&address.storage);
  if (path.empty() || path.size() >= sizeof(name->sun_path)) {
    return InvalidArgument("socket path '" + path + "' has " + std::to_string(path.size()) +
                           " bytes; allowed are 1 to " +
                           std::to_string(sizeof(name->sun_path) - 1));
  }
  name->sun_family = AF_UNIX;
  std::memcpy(name->sun_path, path.data(), path.size());
  address.bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return address;
}

}  // namespace ps::net
