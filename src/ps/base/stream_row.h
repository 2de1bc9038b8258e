#pragma once

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ps {

// Stores around the caches, for rows that another process reads next: a plain store first fetches
// the line that it overwrites. Only whole lines pay, and only they can be streamed.
inline constexpr std::size_t kStreamedBytes = 64;

inline bool CanStream(const float* rows, std::size_t dim) {
#if defined(__SSE2__)
  return (reinterpret_cast<std::uintptr_t>(rows) | dim * sizeof(float)) % kStreamedBytes == 0;
#else
  return (void)rows, (void)dim, false;
#endif
}

// `to` and `dim` floats as CanStream wants them. What was streamed is seen by others in the order
// of the stores that follow after StreamFence.
inline void StreamRow(float* to, const float* from, std::size_t dim) {
#if defined(__SSE2__)
  for (std::size_t i = 0; i < dim; i += 16) {
    const __m128 a = _mm_loadu_ps(from + i), b = _mm_loadu_ps(from + i + 4);
    const __m128 c = _mm_loadu_ps(from + i + 8), d = _mm_loadu_ps(from + i + 12);
    _mm_stream_ps(to + i, a);
    _mm_stream_ps(to + i + 4, b);
    _mm_stream_ps(to + i + 8, c);
    _mm_stream_ps(to + i + 12, d);
  }
#else
  std::memcpy(to, from, dim * sizeof(float));
#endif
}

inline void StreamFence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace ps
