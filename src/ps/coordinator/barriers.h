#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "ps/base/clock.h"
#include "ps/base/status.h"

namespace ps::coordinator {

// Barriers: named meeting points of a fixed number of members. Members enter and wait; the driver
// waits until all are in, and releases them; then the name stands for the next round.
//
// - A member is known by its id. Entering again in the same round joins the same wait (a task that
//   is run again counts once). One member too many is refused.
// - A wait that runs out of time leaves the round.
// - A member is alive as long as one of the connections it waits on is. When the last of them ends
//   it has kRejoinTime to come back (a connection may break and be made anew); then it has died,
//   and the round is over: everyone in it is told.
// - An `attempt` is one call of a member, however often its connection breaks: one that comes back
//   after its round is over gets that round's outcome, and does not enter the next.
//
// A plain state machine: no threads, no sockets, time is passed in; its owner serialises calls.
// Waits end by Answers, which the owner collects with TakeAnswers after each call.
class Barriers {
 public:
  // Half of the ten seconds within which the others hear that a member has died.
  static constexpr Duration kRejoinTime = std::chrono::seconds(5);
  static constexpr std::size_t kBarriersMax = 4'096;
  static constexpr std::size_t kNameBytesMax = 256;  // of barriers, members and attempts
  static constexpr std::size_t kMembersMax = 65'536;
  // Calls that wait at one barrier on behalf of one member, or of the driver.
  static constexpr std::size_t kWaitsMax = 64;

  // Whom to answer.
  struct Waiter {
    std::uint64_t line = 0;  // connection
    std::uint64_t request_id = 0;
  };
  // Ok: released (a member), all are in (the driver). kTimeout; kClosed: the round is over without
  // a release, or the cluster ends (a code that clients do not repeat the call for).
  struct Answer {
    Waiter waiter;
    Status status;
  };
  struct Entry {
    std::string member;
    std::string attempt;
    Duration timeout = Duration::zero();
  };

  // The same size again: nothing. InvalidArgument: another size, or a name or size out of bounds.
  Status Create(const std::string& name, std::uint64_t size);
  // Not ok: refused, there will be no answer. NotFound names the barriers that exist;
  // InvalidArgument: one member too many; kConnection (clients try again): a member is in the way
  // whose connection is broken.
  Status Enter(const std::string& name, const Entry& entry, Waiter waiter, SteadyTime now);
  // Answered when all members are in, when a member has died (also one that died since the last
  // call, once), or at the time-out.
  Status Wait(const std::string& name, Duration timeout, Waiter waiter, SteadyTime now);
  // Lets those inside go, all or not.
  Status Release(const std::string& name);

  void LineEnded(std::uint64_t line, SteadyTime now);
  // Ends waits whose time has come.
  void Advance(SteadyTime now);
  // When Advance has something to do next.
  std::optional<SteadyTime> next_due() const;
  // Ends all waits; later calls are refused with the same status.
  void Close(Status why);

  std::vector<Answer> TakeAnswers();

 private:
  // One call of a member that has not been answered.
  struct MemberWait {
    std::string attempt;
    SteadyTime deadline;
    Waiter waiter;
    std::optional<SteadyTime> lost_at;  // its connection has ended
  };
  struct DriverWait {
    SteadyTime deadline;
    Waiter waiter;
  };
  struct Barrier {
    std::string name;
    std::size_t size = 0;
    std::map<std::string, std::vector<MemberWait>> members;  // of this round; none without a wait
    std::vector<DriverWait> driver_waits;
    // Of the round before: attempt -> how it ended.
    std::map<std::string, Status> outcomes;
    Status untold;  // the end of a round that the driver has not heard of

    bool is_full() const { return members.size() == size; }
    bool all_are_there() const;  // full, and each member has a connection
    std::string Count() const;   // "3 of 4 members are in"
  };

  Result<Barrier*> Find(const std::string& name);
  void AnswerDriver(Barrier& barrier, const Status& status);
  void EndRound(Barrier& barrier, const Status& outcome);
  void EndTimedOut(Barrier& barrier, SteadyTime now);
  void EndDead(Barrier& barrier, SteadyTime now);

  std::map<std::string, Barrier> barriers_;
  std::vector<Answer> answers_;
  Status closed_;
};

}  // namespace ps::coordinator
