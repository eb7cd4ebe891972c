#include "kernels/isa.h"

#include <hwy/targets.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <ranges>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace fathom {
namespace {

#if defined(__x86_64__)
// Linux gives a process the 8 KB of tile state only when it asks (ARCH_REQ_XCOMP_PERM of XTILEDATA).
bool permitted_tiles() {
  constexpr long request_permission = 0x1023, tile_data = 18;
  return ::syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}

// Bits of CPUID leaf 7: subleaf 0's EDX, subleaf 1's EAX. g++ 12's __builtin_cpu_supports knows neither AMX
// nor AVX-VNNI; whether the system saves the registers it knows from AVX2 and AVX-512.
bool has_bits_of_leaf_7(unsigned subleaf, unsigned bits) {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, subleaf, &eax, &ebx, &ecx, &edx) == 0) return false;
  return ((subleaf == 0 ? edx : eax) & bits) == bits;
}

// Not by __builtin_cpu_supports, which knows F16C in g++ but not in the clang 14 of clang-tidy.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }
bool has_avxvnni() { return has_avx2() && has_bits_of_leaf_7(1, 1U << 4); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool has_avx512bf16() { return has_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }
bool has_amx() {
  constexpr unsigned bf16 = 1U << 22, tile = 1U << 24, int8 = 1U << 25;
  return has_avx512bf16() && has_bits_of_leaf_7(0, bf16 | tile | int8) && permitted_tiles();
}
#elif defined(__aarch64__)
bool has_dotprod() { return (::getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
bool has_i8mm() { return has_dotprod() && (::getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0; }
#endif

struct Level {
  Isa isa;
  const char* name;
  bool (*on_this_machine)();
};
// Those of this architecture, in the order of Isa.
constexpr Level levels[] = {
    {Isa::portable, "portable", [] { return true; }},
#if defined(__x86_64__)
    {Isa::avx2, "avx2", has_avx2},
    {Isa::avxvnni, "avxvnni", has_avxvnni},
    {Isa::avx512, "avx512", has_avx512},
    {Isa::avx512vnni, "avx512vnni", has_avx512vnni},
    {Isa::avx512bf16, "avx512bf16", has_avx512bf16},
    {Isa::amx, "amx", has_amx},
#elif defined(__aarch64__)
    {Isa::neon, "neon", [] { return true; }},
    {Isa::dotprod, "dotprod", has_dotprod},
    {Isa::i8mm, "i8mm", has_i8mm},
#endif
};

bool on_this_machine(Isa level) {
  return std::ranges::find(machine_levels(), level) != machine_levels().end();
}

std::string names(auto&& isas) {
  std::string list;
  for (const Isa level : isas) list += (list.empty() ? "" : ", ") + isa_name(level);
  return list;
}

Isa choose() {
  const char* wanted = std::getenv("FATHOM_ISA");
  if (wanted == nullptr || *wanted == '\0') return machine_levels().back();
  const auto* const level = std::ranges::find(levels, std::string_view(wanted), &Level::name);
  if (level == std::end(levels))
    fail("FATHOM_ISA is '{}', expected one of {}", wanted, names(std::views::transform(levels, &Level::isa)));
  if (!on_this_machine(level->isa))
    fail("FATHOM_ISA is '{}', but this machine has only {}", wanted, names(machine_levels()));
  return level->isa;
}

void tell_highway(Isa level) {
#if defined(__x86_64__)
  // Highway's targets are bits, the better ones of an architecture the lower ones.
  if (level < Isa::avx2)
    hwy::DisableTargets((HWY_AVX2 << 1) - 1);
  else if (level < Isa::avx512)
    hwy::DisableTargets((HWY_AVX3 << 1) - 1);
#else
  static_cast<void>(level);  // NEON is in every processor with ARM's 64 bits, and the one target there
#endif
}

}  // namespace

std::span<const Isa> machine_levels() {
  static const std::vector<Isa> own = [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
    std::vector<Isa> found;
    for (const Level& level : levels)
      if (level.on_this_machine()) found.push_back(level.isa);
    return found;
  }();
  return own;
}

bool allows(Isa level) { return level <= isa() && on_this_machine(level); }

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

std::string isa_name(Isa level) { return std::ranges::find(levels, level, &Level::isa)->name; }

#if defined(__x86_64__)
bool native_bf16() { return isa() >= Isa::avx512bf16; }
bool native_tiles() { return isa() == Isa::amx; }
#else
bool native_bf16() { return false; }
bool native_tiles() { return false; }
#endif

}  // namespace fathom
