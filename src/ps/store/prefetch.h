#pragma once

#include <cstdint>

namespace ps::store {

// Asks for the cache line that holds `address`, which need not be mapped.
// Not the builtin alone: GCC 12 takes a function that only prefetches for one without effect, and
// drops calls of it that it has not inlined (seen: gathers at half their speed, differing from
// build to build).
[[gnu::always_inline]] inline void Prefetch(const void* address) {
  __builtin_prefetch(address);
  asm volatile("");
}
[[gnu::always_inline]] inline void Prefetch(std::uintptr_t address) {
  Prefetch(reinterpret_cast<const void*>(address));  // NOLINT: nothing is read through it
}

}  // namespace ps::store
