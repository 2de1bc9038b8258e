#include "ps/coordinator/membership.h"

#include <algorithm>
#include <utility>

namespace ps::coordinator {

Membership::Membership(std::uint32_t server_count, Duration silence_max)
    : silence_max_(silence_max), members_(server_count) {}

Status Membership::Register(ServerRecord record, std::uint64_t line, SteadyTime now) {
  std::string name = "server " + std::to_string(record.server_id);
  if (record.server_id >= members_.size()) {
    return InvalidArgument(name + " cannot register: the cluster has " +
                           std::to_string(members_.size()) + " servers, numbered from 0");
  }
  if (stopping_) return Status(StatusCode::kClosed, name + " comes late: the cluster is stopping");
  Member& member = members_[record.server_id];
  bool same_server = member.registered && member.record.incarnation == record.incarnation &&
                     member.record.state != ServerState::kLost;
  if (same_server) {
    member.line = line;
    member.heard = now;
    return Status::Ok();
  }
  if (member.line.has_value()) {
    return InvalidArgument(name + " cannot register: " + member.record.endpoint.ToString() +
                           " is that server already");
  }
  if (member.registered) {
    return InvalidArgument(name +
                           " cannot register: the server of that number was lost with its "
                           "rows, and putting another in its place is not built yet; start "
                           "the cluster again");
  }
  record.state = ServerState::kStarting;
  member.record = std::move(record);
  member.registered = true;
  member.line = line;
  member.heard = now;
  return Status::Ok();
}

Membership::Member* Membership::MemberOf(std::uint64_t line) {
  auto found = std::find_if(members_.begin(), members_.end(),
                            [&](const Member& member) { return member.line == line; });
  return found == members_.end() ? nullptr : &*found;
}

std::optional<std::uint32_t> Membership::Heard(std::uint64_t line, SteadyTime now) {
  Member* member = MemberOf(line);
  if (member == nullptr) return std::nullopt;
  member->heard = now;
  return member->record.server_id;
}

void Membership::End(Member& member) {
  member.line.reset();
  if (member.record.state == ServerState::kStarting && !stopping_) {
    member.registered = false;
    return;
  }
  member.record.state = stopping_ ? ServerState::kStopped : ServerState::kLost;
}

void Membership::LineEnded(std::uint64_t line) {
  if (Member* member = MemberOf(line)) End(*member);
}

std::vector<std::uint64_t> Membership::EndSilentLines(SteadyTime now) {
  std::vector<std::uint64_t> ended;
  for (Member& member : members_) {
    if (!member.line.has_value() || now - member.heard <= silence_max_) continue;
    ended.push_back(*member.line);
    End(member);
  }
  return ended;
}

void Membership::MarkRunning() {
  for (Member& member : members_) {
    if (member.registered && member.record.state == ServerState::kStarting) {
      member.record.state = ServerState::kRunning;
    }
  }
}

bool Membership::all_registered() const { return IdsMissing().empty(); }

std::vector<std::uint32_t> Membership::IdsIn(ServerState state) const {
  std::vector<std::uint32_t> ids;
  for (const Member& member : members_) {
    if (member.registered && member.record.state == state) ids.push_back(member.record.server_id);
  }
  return ids;
}

std::vector<std::uint32_t> Membership::IdsMissing() const {
  std::vector<std::uint32_t> ids;
  for (std::uint32_t id = 0; id < members_.size(); ++id) {
    if (!members_[id].registered) ids.push_back(id);
  }
  return ids;
}

std::vector<std::uint32_t> Membership::IdsWithLine() const {
  std::vector<std::uint32_t> ids;
  for (const Member& member : members_) {
    if (member.line.has_value()) ids.push_back(member.record.server_id);
  }
  return ids;
}

std::vector<ServerRecord> Membership::Records() const {
  std::vector<ServerRecord> records;
  for (const Member& member : members_) {
    if (member.registered) records.push_back(member.record);
  }
  return records;
}

std::string IdList(const std::vector<std::uint32_t>& ids) {
  std::string list;
  for (std::uint32_t id : ids) list += (list.empty() ? "" : ", ") + std::to_string(id);
  return list;
}

}  // namespace ps::coordinator
