#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <vector>

namespace ps::bench {

// Huge pages for everything large, as the store's own pages.
template <typename T>
struct HugePageAllocator {
  using value_type = T;
  static constexpr std::size_t kPage = std::size_t{2} << 20;

  HugePageAllocator() = default;
  template <typename U>
  HugePageAllocator(const HugePageAllocator<U>&) {}  // NOLINT: allocators convert

  T* allocate(std::size_t n) {
    const std::size_t bytes = (n * sizeof(T) + kPage - 1) / kPage * kPage;
    if (n * sizeof(T) < kPage) return static_cast<T*>(std::aligned_alloc(64, Rounded(n)));
    void* memory = std::aligned_alloc(kPage, bytes);
    madvise(memory, bytes, MADV_HUGEPAGE);
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { std::free(memory); }
  static std::size_t Rounded(std::size_t n) { return (n * sizeof(T) + 63) / 64 * 64; }
  template <typename U>
  bool operator==(const HugePageAllocator<U>&) const {
    return true;
  }
  template <typename U>
  bool operator!=(const HugePageAllocator<U>&) const {
    return false;
  }
};

template <typename T>
using HugeVector = std::vector<T, HugePageAllocator<T>>;

}  // namespace ps::bench
