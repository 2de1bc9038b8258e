#pragma once

#include <cstddef>
#include <cstring>

namespace ps::client {

// memcpy of rows that follow each other, in pieces. Copies of 2 KiB and more are one "rep movsb" to
// glibc, which takes up to four times as long on AMD Zen 3: 13.6 MB in 4.7 ms instead of 1.2 where
// both ends lie alike in their pages.
inline void CopyRun(void* to, const void* from, std::size_t bytes) {
  constexpr std::size_t kPiece = 512;
  auto* out = static_cast<char*>(to);
  const auto* in = static_cast<const char*>(from);
  std::size_t at = 0;
  for (; at + kPiece <= bytes; at += kPiece) std::memcpy(out + at, in + at, kPiece);
  std::memcpy(out + at, in + at, bytes - at);
}

}  // namespace ps::client
