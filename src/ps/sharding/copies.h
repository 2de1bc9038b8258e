#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "ps/base/types.h"

namespace ps::sharding {

// Which servers hold the copies of what the partition map gives to one server, its `home`: the
// chain home, home + 1, ... around the ring of server ids, `copies` of them, all distinct. (Why by
// server and not by partition: docs/decisions/0004-copies-of-dense-weights.md.)
//
// The first server of a chain that is not lost owns: it alone applies changes. Each server of a
// chain passes what it holds on to the next one that is not lost, and the last one has nobody to
// pass it to. A value; it changes only when the coordinator declares a server lost.
struct Copies {
  std::uint32_t server_count = 1;
  std::uint32_t copies = 1;    // 1 to server_count
  std::vector<ServerId> lost;  // ascending; never shrinks

  bool IsLost(ServerId server) const;
  // Whether `server` is in the chain, lost or not.
  bool Holds(ServerId server, ServerId home) const { return Place(server, home) < copies; }
  // None when all servers of the chain are lost.
  std::optional<ServerId> OwnerOf(ServerId home) const;
  // Whom `server`, one of the chain, passes changes on to; none: it is the last.
  std::optional<ServerId> NextAfter(ServerId server, ServerId home) const;
  // Where a reader reads: while the chain is whole any server of it, the same one for the same
  // `reader` (a random number), so that a reader never goes back in time; the owner otherwise.
  std::optional<ServerId> ReadFrom(ServerId home, std::uint64_t reader) const;

  bool operator==(const Copies&) const = default;

 private:
  // How many steps after home `server` comes.
  std::uint32_t Place(ServerId server, ServerId home) const {
    return (server + server_count - home) % server_count;
  }
  ServerId At(ServerId home, std::uint32_t place) const { return (home + place) % server_count; }
};

}  // namespace ps::sharding
