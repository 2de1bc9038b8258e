#include "ps/net/descriptors.h"

#include <sys/resource.h>

#include <algorithm>

namespace ps::net {

std::size_t RaiseDescriptorLimit(std::size_t wanted) {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return wanted;
  rlim_t now = limit.rlim_cur;
  if (now >= wanted) return now;
  limit.rlim_cur = std::min<rlim_t>(wanted, limit.rlim_max);
  return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_cur : now;
}

}  // namespace ps::net
