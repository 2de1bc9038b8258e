#include "ps/coordinator/barriers.h"

#include <algorithm>
#include <utility>

namespace ps::coordinator {
namespace {

Status CheckName(const char* what, const std::string& name) {
  if (!name.empty() && name.size() <= Barriers::kNameBytesMax) return Status::Ok();
  return InvalidArgument(std::string(what) + " of " + std::to_string(name.size()) +
                         " bytes: 1 to " + std::to_string(Barriers::kNameBytesMax) +
                         " are allowed");
}

std::string Quoted(const std::string& name) { return "barrier '" + name + "'"; }

Status TooManyWaits(const std::string& name) {
  return ResourceExhausted(Quoted(name) + ": " + std::to_string(Barriers::kWaitsMax) +
                           " calls of one member or of the driver wait there already");
}

}  // namespace

bool Barriers::Barrier::all_are_there() const {
  auto is_there = [](const auto& member) {
    return std::any_of(member.second.begin(), member.second.end(),
                       [](const MemberWait& wait) { return !wait.lost_at.has_value(); });
  };
  return is_full() && std::all_of(members.begin(), members.end(), is_there);
}

std::string Barriers::Barrier::Count() const {
  return std::to_string(members.size()) + " of " + std::to_string(size) + " members are in";
}

Result<Barriers::Barrier*> Barriers::Find(const std::string& name) {
  if (!closed_.ok()) return closed_;
  auto found = barriers_.find(name);
  if (found != barriers_.end()) return &found->second;
  std::string names;
  for (const auto& [known, barrier] : barriers_) {
    names += (names.empty() ? "'" : ", '") + known + "'";
  }
  return NotFound(Quoted(name.substr(0, kNameBytesMax)) + " does not exist; " +
                  (names.empty() ? "none does" : "there are " + names.substr(0, 1'024)) +
                  " (create_barrier makes one)");
}

Status Barriers::Create(const std::string& name, std::uint64_t size) {
  if (!closed_.ok()) return closed_;
  PS_RETURN_IF_ERROR(CheckName("a barrier's name", name));
  if (size < 1 || size > kMembersMax) {
    return InvalidArgument(Quoted(name) + ": num_workers is " + std::to_string(size) +
                           ", allowed is 1 to " + std::to_string(kMembersMax));
  }
  auto found = barriers_.find(name);
  if (found == barriers_.end()) {
    if (barriers_.size() >= kBarriersMax) {
      return ResourceExhausted(Quoted(name) + ": a cluster has at most " +
                               std::to_string(kBarriersMax) + " barriers");
    }
    Barrier& made = barriers_[name];
    made.name = name;
    made.size = size;
    return Status::Ok();
  }
  if (found->second.size == size) return Status::Ok();
  return InvalidArgument(Quoted(name) + " exists for " + std::to_string(found->second.size) +
                         " workers; asked for were " + std::to_string(size));
}

Status Barriers::Enter(const std::string& name, const Entry& entry, Waiter waiter, SteadyTime now) {
  PS_ASSIGN_OR_RETURN(Barrier * barrier, Find(name));
  PS_RETURN_IF_ERROR(CheckName("a member's id", entry.member));
  PS_RETURN_IF_ERROR(CheckName("an attempt's id", entry.attempt));
  if (auto ended = barrier->outcomes.find(entry.attempt); ended != barrier->outcomes.end()) {
    answers_.push_back({waiter, ended->second});
    return Status::Ok();
  }
  auto member = barrier->members.find(entry.member);
  if (member == barrier->members.end()) {
    if (barrier->is_full() && !barrier->all_are_there()) {
      // Perhaps the same task, run again under another id.
      return ConnectionError(Quoted(name) + ": all places are taken, but the connection of a " +
                             "member is broken; try again");
    }
    if (barrier->is_full()) {
      return InvalidArgument(Quoted(name) + ": member '" + entry.member +
                             "' is one too many, all " + std::to_string(barrier->size) +
                             " are in; each worker needs a client_id of its own");
    }
    member = barrier->members.emplace(entry.member, std::vector<MemberWait>()).first;
  }
  std::vector<MemberWait>& waits = member->second;
  auto same = std::find_if(waits.begin(), waits.end(),
                           [&](const MemberWait& wait) { return wait.attempt == entry.attempt; });
  if (same != waits.end()) {
    same->waiter = waiter;  // its deadline stays
    same->lost_at.reset();
  } else {
    if (waits.size() >= kWaitsMax) return TooManyWaits(name);
    // The member lives: attempts of it that were cut off are not waited for.
    std::erase_if(waits, [](const MemberWait& wait) { return wait.lost_at.has_value(); });
    waits.push_back({entry.attempt, now + entry.timeout, waiter, std::nullopt});
  }
  if (barrier->all_are_there()) AnswerDriver(*barrier, Status::Ok());
  return Status::Ok();
}

Status Barriers::Wait(const std::string& name, Duration timeout, Waiter waiter, SteadyTime now) {
  PS_ASSIGN_OR_RETURN(Barrier * barrier, Find(name));
  if (barrier->driver_waits.size() >= kWaitsMax) return TooManyWaits(name);
  barrier->driver_waits.push_back({now + timeout, waiter});
  if (barrier->all_are_there()) {
    AnswerDriver(*barrier, Status::Ok());
  } else if (!barrier->untold.ok()) {
    AnswerDriver(*barrier, barrier->untold);
  }
  return Status::Ok();
}

Status Barriers::Release(const std::string& name) {
  PS_ASSIGN_OR_RETURN(Barrier * barrier, Find(name));
  EndRound(*barrier, Status::Ok());
  barrier->untold = Status::Ok();
  return Status::Ok();
}

void Barriers::AnswerDriver(Barrier& barrier, const Status& status) {
  for (const DriverWait& wait : barrier.driver_waits) answers_.push_back({wait.waiter, status});
  barrier.driver_waits.clear();
  barrier.untold = Status::Ok();
}

void Barriers::EndRound(Barrier& barrier, const Status& outcome) {
  barrier.outcomes.clear();
  for (auto& [id, waits] : barrier.members) {
    for (MemberWait& wait : waits) {
      if (!wait.lost_at.has_value()) answers_.push_back({wait.waiter, outcome});
      barrier.outcomes.emplace(std::move(wait.attempt), outcome);
    }
  }
  barrier.members.clear();
}

void Barriers::LineEnded(std::uint64_t line, SteadyTime now) {
  for (auto& [name, barrier] : barriers_) {
    std::erase_if(barrier.driver_waits,
                  [&](const DriverWait& wait) { return wait.waiter.line == line; });
    for (auto& [id, waits] : barrier.members) {
      for (MemberWait& wait : waits) {
        if (wait.waiter.line == line && !wait.lost_at.has_value()) wait.lost_at = now;
      }
    }
  }
}

void Barriers::Advance(SteadyTime now) {
  for (auto& [name, barrier] : barriers_) {
    EndTimedOut(barrier, now);
    EndDead(barrier, now);
  }
}

void Barriers::EndTimedOut(Barrier& barrier, SteadyTime now) {
  Status late = TimeoutError(Quoted(barrier.name) + " was not released in time; " +
                             barrier.Count() + "; this one has left");
  for (auto member = barrier.members.begin(); member != barrier.members.end();) {
    std::vector<MemberWait>& waits = member->second;
    std::erase_if(waits, [&](const MemberWait& wait) {
      bool is_over = !wait.lost_at.has_value() && wait.deadline <= now;
      if (is_over) answers_.push_back({wait.waiter, late});
      return is_over;
    });
    member = waits.empty() ? barrier.members.erase(member) : std::next(member);
  }
  Status not_all = TimeoutError(Quoted(barrier.name) + ": " + barrier.Count());
  std::erase_if(barrier.driver_waits, [&](const DriverWait& wait) {
    if (wait.deadline <= now) answers_.push_back({wait.waiter, not_all});
    return wait.deadline <= now;
  });
}

void Barriers::EndDead(Barrier& barrier, SteadyTime now) {
  auto is_dead = [&](const MemberWait& wait) {
    return wait.lost_at.has_value() && now - *wait.lost_at >= kRejoinTime;
  };
  for (auto& [id, waits] : barrier.members) {
    if (!std::all_of(waits.begin(), waits.end(), is_dead)) {
      std::erase_if(waits, is_dead);
      continue;
    }
    Status died(StatusCode::kClosed, Quoted(barrier.name) + ": member '" + id +
                                         "' died while it waited (its connection ended); the "
                                         "round is over, and the name stands for the next");
    bool is_heard = !barrier.driver_waits.empty();
    AnswerDriver(barrier, died);
    if (!is_heard) barrier.untold = died;
    EndRound(barrier, died);
    return;
  }
}

std::optional<SteadyTime> Barriers::next_due() const {
  std::optional<SteadyTime> due;
  auto add = [&](SteadyTime time) { due = due.has_value() ? std::min(*due, time) : time; };
  for (const auto& [name, barrier] : barriers_) {
    for (const DriverWait& wait : barrier.driver_waits) add(wait.deadline);
    for (const auto& [id, waits] : barrier.members) {
      for (const MemberWait& wait : waits) {
        add(wait.lost_at.has_value() ? *wait.lost_at + kRejoinTime : wait.deadline);
      }
    }
  }
  return due;
}

void Barriers::Close(Status why) {
  closed_ = std::move(why);
  for (auto& [name, barrier] : barriers_) {
    AnswerDriver(barrier, closed_);
    EndRound(barrier, closed_);
  }
}

std::vector<Barriers::Answer> Barriers::TakeAnswers() { return std::exchange(answers_, {}); }

}  // namespace ps::coordinator
