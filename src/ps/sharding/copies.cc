#include "ps/sharding/copies.h"

#include <algorithm>

#include "ps/base/hash.h"

namespace ps::sharding {

bool Copies::IsLost(ServerId server) const {
  return std::binary_search(lost.begin(), lost.end(), server);
}

std::optional<ServerId> Copies::OwnerOf(ServerId home) const {
  if (!IsLost(home)) return home;
  return NextAfter(home, home);
}

std::optional<ServerId> Copies::NextAfter(ServerId server, ServerId home) const {
  for (std::uint32_t place = Place(server, home) + 1; place < copies; ++place) {
    if (!IsLost(At(home, place))) return At(home, place);
  }
  return std::nullopt;
}

std::optional<ServerId> Copies::ReadFrom(ServerId home, std::uint64_t reader) const {
  for (std::uint32_t place = 0; place < copies; ++place) {
    if (IsLost(At(home, place))) return OwnerOf(home);
  }
  return At(home, static_cast<std::uint32_t>(HashKey(reader, home) % copies));
}

}  // namespace ps::sharding
