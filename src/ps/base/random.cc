#include "ps/base/random.h"

#include <algorithm>
#include <array>
#include <bit>

#include "ps/base/hash.h"

// Compiled with -ffp-contract=off: a fused multiply-add would round differently from machine to
// machine.
namespace ps {
namespace {

constexpr std::size_t kBlockFloats = 64;
using Words = std::array<std::uint32_t, kBlockFloats>;

// Start of the sequence named by (seed, stream, counter); bijective in each of the three.
std::uint64_t SequenceBase(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) {
  return Mix64(Mix64(Mix64(seed) ^ stream) ^ counter);
}

// Words 2*pair, 2*pair + 1, ... of a sequence: SplitMix64 from `base`, low half first. Fills words
// 0 .. 2 * pairs - 1.
void FillWords(std::uint64_t base, std::uint64_t pair, std::size_t pairs, Words& words) {
  constexpr std::uint64_t kGamma = 0x9e3779b97f4a7c15ull;
  std::uint64_t state = base + pair * kGamma;
  for (std::size_t i = 0; i < pairs; ++i, state += kGamma) {
    std::uint64_t bits = Mix64(state);
    words[2 * i] = static_cast<std::uint32_t>(bits);
    words[2 * i + 1] = static_cast<std::uint32_t>(bits >> 32);
  }
}

// The odd multiples of 2^-24 in (-1, 1), each as likely as the others: symmetric, never 0.
inline float UniformOf(std::uint32_t word) {
  std::int32_t top = static_cast<std::int32_t>(word) >> 8;
  return static_cast<float>(2 * top + 1) * 0x1p-24f;
}

// log2(y), 2^-126 <= y <= 1; absolute error below 3e-6. Minimax fit of degree 6 on the mantissa,
// exact at its ends so that octaves join.
inline float Log2Of(float y) {
  std::uint32_t bits = std::bit_cast<std::uint32_t>(y);
  float exponent = static_cast<float>(static_cast<std::int32_t>(bits >> 23) - 127);
  float t = std::bit_cast<float>((bits & 0x007fffffu) | 0x3f800000u) - 1.0f;
  float p = -2.584144e-2f;
  p = p * t + 1.21797875e-1f;
  p = p * t - 2.77905297e-1f;
  p = p * t + 4.57549185e-1f;
  p = p * t - 7.18145251e-1f;
  p = p * t + 1.44254494f;
  return exponent + t * p;
}

// The inverse normal distribution: 31 bits are the two-sided tail, one is the sign. With
// x = 1 - tail and w = -log2(1 - x^2), z / x is smooth in w, and one rational function of degree
// 4 / 3 (minimax fit, relative error 1.5e-5) serves the whole range, |z| <= 6.3.
inline float NormalOf(std::uint32_t word) {
  float tail =
      (static_cast<float>(static_cast<std::int32_t>(word & 0x7fffffffu)) + 0.5f) * 0x1p-31f;
  float w = -Log2Of(tail * (2.0f - tail));
  float p = 9.81747349e-6f;
  p = p * w + 3.35606751e-3f;
  p = p * w + 4.05523633e-2f;
  p = p * w + 3.05389528e-1f;
  p = p * w + 1.25329578f;
  float q = 2.54932745e-4f;
  q = q * w + 1.51177639e-2f;
  q = q * w + 6.20354324e-2f;
  q = q * w + 1.0f;
  float magnitude = (1.0f - tail) * p / q;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(magnitude) | (word & 0x80000000u));
}

template <float (*Value)(std::uint32_t)>
void FillScaled(float scale, std::uint64_t base, std::uint64_t first, std::span<float> out) {
  Words words;
  std::array<float, kBlockFloats> values;
  while (!out.empty()) {
    std::size_t skip = first % 2;
    std::size_t n = std::min(out.size(), kBlockFloats - skip);
    std::size_t pairs = (skip + n + 1) / 2;
    FillWords(base, first / 2, pairs, words);
    // Whole groups of four, so that short rows run vectorised as well.
    std::size_t whole = (2 * pairs + 3) / 4 * 4;
    for (std::size_t i = 2 * pairs; i < whole; ++i) words[i] = 0;
    for (std::size_t i = 0; i < whole; ++i) values[i] = Value(words[i]) * scale;
    std::copy_n(values.data() + skip, n, out.data());
    out = out.subspan(n);
    first += n;
  }
}

}  // namespace

Result<InitKind> ParseInitKind(const std::string& name) {
  if (name == "zeros") return InitKind::kZeros;
  if (name == "ones") return InitKind::kOnes;
  if (name == "random" || name == "uniform") return InitKind::kUniform;
  if (name == "normal") return InitKind::kNormal;
  return InvalidArgument(
      "initializer '" + name +
      "' is not known; allowed: zeros, ones, random (also called uniform), normal");
}

void FillInitial(const Initializer& initializer, std::uint64_t seed, std::uint64_t stream,
                 std::uint64_t counter, std::uint64_t first, std::span<float> out) {
  std::uint64_t base = SequenceBase(seed, stream, counter);
  switch (initializer.kind) {
    case InitKind::kZeros:
      std::fill(out.begin(), out.end(), 0.0f);
      return;
    case InitKind::kOnes:
      std::fill(out.begin(), out.end(), 1.0f);
      return;
    case InitKind::kUniform:
      FillScaled<UniformOf>(initializer.scale, base, first, out);
      return;
    case InitKind::kNormal:
      FillScaled<NormalOf>(initializer.scale, base, first, out);
      return;
  }
}

}  // namespace ps
