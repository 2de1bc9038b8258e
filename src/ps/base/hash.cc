#include "ps/base/hash.h"

#define XXH_INLINE_ALL  // no symbol of ours may meet another copy of xxHash in the same process
#include <xxhash.h>

namespace ps {

std::uint64_t HashBytes(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace ps
