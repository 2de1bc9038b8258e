#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "ps/base/status.h"

namespace ps {

// How new values are drawn. "random" of the public configuration is kUniform.
enum class InitKind : std::uint8_t { kZeros = 0, kOnes = 1, kUniform = 2, kNormal = 3 };

struct Initializer {
  InitKind kind = InitKind::kNormal;
  float scale = 0.01f;  // uniform(-scale, scale), N(0, scale^2); ignored by zeros and ones

  bool operator==(const Initializer&) const = default;
};

// "zeros", "ones", "random"/"uniform", "normal"; anything else: InvalidArgument naming what is
// allowed.
Result<InitKind> ParseInitKind(const std::string& name);

// Fills `out` with values `first .. first+out.size()` of the sequence named by (seed, stream,
// counter). Counter-based: a value depends on (seed, stream, counter, its index) alone, so that any
// server, on any day, makes the same row, and a chunk of a tensor can be made without the chunks
// before it. Bit-identical on every machine: integer mixing and IEEE + - * / sqrt only, no libm.
// Rows: stream = the table's salt, counter = the key, first = 0.
// Tensors: stream = HashBytes(name), counter = 0, first = the chunk's offset in floats.
void FillInitial(const Initializer& initializer, std::uint64_t seed, std::uint64_t stream,
                 std::uint64_t counter, std::uint64_t first, std::span<float> out);

}  // namespace ps
