#include "kernels/isa.h"

#include <hwy/targets.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <array>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"

namespace fathom {
namespace {

constexpr std::array<const char*, 4> names = {"portable", "avx2", "avx512", "amx"};

#if defined(__x86_64__)
// Linux gives a process the 8 KB of tile state only when it asks (ARCH_REQ_XCOMP_PERM of XTILEDATA).
bool permitted_tiles() {
  constexpr long request_permission = 0x1023, tile_data = 18;
  return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

// CPUID leaf 7: EDX bits 22, 24 and 25, and of its subleaf 1 EAX bit 5, AVX-512's conversion to bf16, which
// all processors with AMX have. g++ 12's __builtin_cpu_supports does not know AMX.
bool has_amx() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned bf16 = 1U << 22, tile = 1U << 24, int8 = 1U << 25;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 &&
         (edx & (bf16 | tile | int8)) == (bf16 | tile | int8) && __builtin_cpu_supports("avx512bf16") &&
         permitted_tiles();
}

// Not by __builtin_cpu_supports, which knows F16C in g++ but not in the clang 14 of clang-tidy.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

Isa detect() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vnni");
  if (!avx2) return Isa::portable;
  if (!avx512) return Isa::avx2;
  return has_amx() ? Isa::amx : Isa::avx512;
}
#else
Isa detect() { return Isa::portable; }
#endif

Isa choose() {
  const Isa best = best_isa();
  const char* wanted = std::getenv("FATHOM_ISA");
  if (wanted == nullptr || *wanted == '\0') return best;
  for (std::size_t level = 0; level < names.size(); ++level) {
    if (std::string_view(wanted) != names[level]) continue;
    if (static_cast<Isa>(level) > best)
      fail("FATHOM_ISA is '{}', but this machine has no more than {}", wanted, isa_name(best));
    return static_cast<Isa>(level);
  }
  fail("FATHOM_ISA is '{}', expected amx, avx512, avx2 or portable", wanted);
}

void tell_highway(Isa level) {
#if defined(__x86_64__)
  // Highway's targets are bits, the better ones of an architecture the lower ones.
  if (level < Isa::avx2)
    hwy::DisableTargets((HWY_AVX2 << 1) - 1);
  else if (level < Isa::avx512)
    hwy::DisableTargets((HWY_AVX3 << 1) - 1);
#else
  static_cast<void>(level);
#endif
}

}  // namespace

Isa best_isa() {
  static const Isa best = detect();
  return best;
}

Isa isa() {
  static const Isa chosen = [] {
    const Isa level = choose();
    tell_highway(level);
    return level;
  }();
  return chosen;
}

namespace {
// Before main, since Highway would run the first kernel at its own choice: where nobody had asked before it
// did, a run's first norm differed in its last bits from what the same norm gave later. What is wrong with
// FATHOM_ISA is said to whoever asks next.
[[maybe_unused]] const bool highway_knows = [] {
  try {
    isa();
  } catch (const Error&) {
    return false;
  }
  return true;
}();
}  // namespace

std::string isa_name(Isa level) { return names[static_cast<std::size_t>(level)]; }

}  // namespace fathom
