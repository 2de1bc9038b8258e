#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/coordinator/membership.h"
#include "ps/coordinator/server_record.h"

namespace ps::coordinator {

// The life of a cluster's servers, for all threads of the coordinator: membership.h behind a lock,
// and the waits for the cluster's start and end. Thread-safe.
class Roster {
 public:
  Roster(std::uint32_t server_count, Duration silence_max) : members_(server_count, silence_max) {}

  // --- what is heard of them (membership.h)
  // True when all servers are registered now.
  Result<bool> Register(ServerRecord record, std::uint64_t line, SteadyTime now);
  bool Heard(std::uint64_t line, SteadyTime now);  // false: not a server's line
  void LineEnded(std::uint64_t line);
  std::vector<std::uint64_t> EndSilentLines(SteadyTime now);

  // --- the cluster's life
  // The first definition is on every server, or why it is not. Nothing when a server has gone
  // meanwhile: the next one to take its place starts this over.
  void DefinitionArrived(const Status& status);
  void BeginStopping();
  void Close();  // waits end, and nothing is waited for any more

  // --- questions
  std::vector<ServerRecord> Records() const;
  bool stopping() const;
  // Waiting for this server makes no sense (any more).
  bool Gone(std::uint32_t server) const;
  // kClosed while stopping, kConnection while starting or once a server is lost.
  Status CheckRunning() const;
  bool AnyLost() const { return !Lost().empty(); }
  std::vector<std::uint32_t> Lost() const;  // ids, ascending

  // Until the cluster runs. kTimeout names the servers that are missing; another error at once when
  // one was lost or refused the definition.
  Status WaitRunning(SteadyTime deadline);
  // Until no server has a line any more; kTimeout names those left.
  Status WaitGone(SteadyTime deadline);

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  Membership members_;
  bool running_ = false;
  bool closed_ = false;
  Status start_error_;
};

}  // namespace ps::coordinator
