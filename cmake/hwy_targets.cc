// The functions that Highway's headers expect for dispatch at run time. Debian ships Highway's as a
// shared library only, and the native module carries everything it needs in itself; these are the
// four it takes, and Abort. Which processor features a target stands for: hwy/set_macros-inl.h,
// HWY_TARGET_STR.
#include <hwy/targets.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#if HWY_ARCH_X86
#include <cpuid.h>
#endif

namespace hwy {
namespace {

std::atomic<int64_t> disabled_targets{0};
std::atomic<int64_t> mocked_targets{0};

#if HWY_ARCH_X86
// These two lack a name in some compilers' __builtin_cpu_supports. F16C needs the AVX registers,
// LZCNT none.
bool HasF16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1u << 29)) != 0;
}
bool HasLzcnt() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0x80000001u, &a, &b, &c, &d) != 0 && (c & (1u << 5)) != 0;
}

// __builtin_cpu_supports says yes only where the operating system saves the registers, too.
int64_t DetectTargets() {
  __builtin_cpu_init();
  int64_t targets = 0;
  if (!__builtin_cpu_supports("ssse3")) return targets;
  targets |= HWY_SSSE3;
  if (!__builtin_cpu_supports("sse4.1") || !__builtin_cpu_supports("sse4.2") ||
      !__builtin_cpu_supports("aes") || !__builtin_cpu_supports("pclmul")) {
    return targets;
  }
  targets |= HWY_SSE4;
  if (!__builtin_cpu_supports("avx") || !__builtin_cpu_supports("avx2") ||
      !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi") ||
      !__builtin_cpu_supports("bmi2") || !HasF16c() || !HasLzcnt()) {
    return targets;
  }
  targets |= HWY_AVX2;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512cd")) {
    return targets;
  }
  targets |= HWY_AVX3;
  if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vbmi") ||
      !__builtin_cpu_supports("avx512vbmi2") || !__builtin_cpu_supports("avx512bitalg") ||
      !__builtin_cpu_supports("avx512vpopcntdq") || !__builtin_cpu_supports("vpclmulqdq") ||
      !__builtin_cpu_supports("gfni")) {
    return targets;
  }
  return targets | HWY_AVX3_DL;
}
#elif HWY_ARCH_ARM_A64
// Every 64-bit Arm processor has NEON; SVE is not chosen.
int64_t DetectTargets() { return HWY_NEON; }
#else
int64_t DetectTargets() { return 0; }
#endif

}  // namespace

int64_t SupportedTargets() {
  static const int64_t detected = DetectTargets() | HWY_EMU128 | HWY_SCALAR;
  const int64_t mocked = mocked_targets.load(std::memory_order_relaxed);
  const int64_t targets =
      (mocked != 0 ? mocked : detected) & ~disabled_targets.load(std::memory_order_relaxed);
  return targets != 0 ? targets : HWY_STATIC_TARGET;
}

void DisableTargets(int64_t targets) {
  disabled_targets.store(targets, std::memory_order_relaxed);
  GetChosenTarget().DeInit();
}

void SetSupportedTargetsForTest(int64_t targets) {
  mocked_targets.store(targets, std::memory_order_relaxed);
  GetChosenTarget().DeInit();
}

ChosenTarget& GetChosenTarget() {
  static ChosenTarget chosen;
  return chosen;
}

void Abort(const char* file, int line, const char* format, ...) {
  std::fprintf(stderr, "%s:%d: ", file, line);
  va_list args;
  va_start(args, format);
  std::vfprintf(stderr, format, args);
  va_end(args);
  std::fputc('\n', stderr);
  std::abort();
}

}  // namespace hwy
