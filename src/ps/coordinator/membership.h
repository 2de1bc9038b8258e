#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/coordinator/coordinator.h"

namespace ps::coordinator {

// Who is in the cluster: server ids 0..n-1, each taken by one life line (the connection on which it
// registered) for good. A plain state machine: no threads, no sockets; its owner serialises calls.
class Membership {
 public:
  Membership(std::uint32_t server_count, Duration silence_max);

  // InvalidArgument: an id that does not exist, or is taken; also when the server that had it is
  // lost (its rows are gone; a server in its place comes with recovery from checkpoints). kClosed
  // once the cluster is stopping.
  Status Register(ServerRecord record, std::uint64_t line, SteadyTime now);
  // The server of a life line; none when the line is not one.
  std::optional<std::uint32_t> Heard(std::uint64_t line, SteadyTime now);
  // The line has ended: its server is lost, or stopped when the cluster is stopping.
  void LineEnded(std::uint64_t line);
  // Lines of servers that nothing was heard of for too long; their servers are lost.
  std::vector<std::uint64_t> EndSilentLines(SteadyTime now);
  // From now on a line that ends belongs to a server that was asked to.
  void BeginStopping() { stopping_ = true; }
  void MarkRunning();  // all that are starting

  bool stopping() const { return stopping_; }
  bool all_registered() const;
  std::vector<std::uint32_t> IdsIn(ServerState state) const;
  std::vector<std::uint32_t> IdsMissing() const;  // have never registered
  std::vector<std::uint32_t> IdsWithLine() const;
  // Of those that registered, by id.
  std::vector<ServerRecord> Records() const;
  const ServerRecord& record(std::uint32_t id) const { return members_[id].record; }

 private:
  struct Member {
    ServerRecord record;
    bool registered = false;
    std::optional<std::uint64_t> line;
    SteadyTime heard;
  };
  Member* MemberOf(std::uint64_t line);
  void End(Member& member);

  const Duration silence_max_;
  std::vector<Member> members_;
  bool stopping_ = false;
};

// "1, 2, 7", for messages.
std::string IdList(const std::vector<std::uint32_t>& ids);

}  // namespace ps::coordinator
