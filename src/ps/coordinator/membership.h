#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"
#include "ps/coordinator/server_record.h"

namespace ps::coordinator {

// Who is in the cluster: server ids 0..n-1, each taken by one life line (the connection on which it
// registered), for good once the cluster runs. A plain state machine: no threads, no sockets; its
// owner serialises calls.
class Membership {
 public:
  Membership(std::uint32_t server_count, Duration silence_max);

  // The same incarnation again is the same server, which did not hear the answer: the new line
  // takes the old one's place. InvalidArgument: an id that does not exist, or is taken; also when
  // the server that had it is lost (its rows are gone; a server in its place comes with recovery
  // from checkpoints). kClosed once the cluster is stopping.
  Status Register(ServerRecord record, std::uint64_t line, SteadyTime now);
  // The server of a life line; none when the line is not one.
  std::optional<std::uint32_t> Heard(std::uint64_t line, SteadyTime now);
  // The line has ended: its server is lost, or stopped when the cluster is stopping. While the
  // cluster starts there is nothing to lose: its place is free again.
  void LineEnded(std::uint64_t line);
  // Lines of servers that nothing was heard of for too long; their servers are lost.
  std::vector<std::uint64_t> EndSilentLines(SteadyTime now);
  // From now on a line that ends belongs to a server that was asked to.
  void BeginStopping() { stopping_ = true; }
  void MarkRunning();  // all that are starting

  bool stopping() const { return stopping_; }
  bool all_registered() const;
  std::vector<std::uint32_t> IdsIn(ServerState state) const;
  std::vector<std::uint32_t> IdsMissing() const;  // are not registered
  std::vector<std::uint32_t> IdsWithLine() const;
  // Of those that registered, by id.
  std::vector<ServerRecord> Records() const;
  bool has_line(std::uint32_t id) const { return members_[id].line.has_value(); }
  std::size_t server_count() const { return members_.size(); }

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
