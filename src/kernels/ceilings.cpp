#include "kernels/ceilings.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/threads.h"
#include "kernels/aligned.h"
#include "kernels/ceiling_loops.h"
#include "kernels/isa.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ceilings.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace fathom::ceiling_loops::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using D = hn::ScalableTag<float>;
using Vector = hn::Vec<D>;

HWY_INLINE float total(const Vector* sum, int count) {
  const D d;
  Vector all = hn::Zero(d);
  for (int i = 0; i < count; ++i) all = hn::Add(all, sum[i]);
  return hn::GetLane(hn::SumOfLanes(d, all));
}

// Every step needs the one before, so that none is taken out of the loop; and sums begin with other values,
// or one of them would stand for all.
float multiply_add(std::int64_t rounds) {
  const D d;
  const Vector factor = hn::Set(d, 0.5F), summand = hn::Set(d, 1.0F);
  Vector sum[sums];
  for (int i = 0; i < sums; ++i) sum[i] = hn::Set(d, static_cast<float>(i));
  for (std::int64_t i = 0; i < rounds; ++i)
    for (Vector& s : sum) s = hn::MulAdd(s, factor, summand);
  return total(sum, sums);
}

// Adds up `streams` runs of `length` floats that follow one another, side by side.
float read(const float* from, std::size_t length) {
  const D d;
  const std::size_t lanes = hn::Lanes(d);
  Vector sum[streams];
  for (Vector& s : sum) s = hn::Zero(d);
  for (std::size_t i = 0; i + lanes <= length; i += lanes) {
    std::size_t start = i;
    for (Vector& s : sum) {
      s = hn::Add(s, hn::Load(d, from + start));
      start += length;
    }
  }
  return total(sum, streams);
}

std::size_t lanes() { return hn::Lanes(D()); }

}  // namespace fathom::ceiling_loops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace ceiling_loops {
namespace {
HWY_EXPORT(multiply_add);
HWY_EXPORT(read);
HWY_EXPORT(lanes);

int f32(std::int64_t rounds) { return static_cast<int>(HWY_DYNAMIC_DISPATCH(multiply_add)(rounds)); }
float read_streams(const float* from, std::size_t length) { return HWY_DYNAMIC_DISPATCH(read)(from, length); }
std::size_t f32_lanes() { return HWY_DYNAMIC_DISPATCH(lanes)(); }

}  // namespace
}  // namespace ceiling_loops

namespace {

double seconds_of(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double best_seconds(const std::function<void()>& body) {
  constexpr double enough = 0.1;
  double best = seconds_of(body);
  for (double spent = best; spent < enough;) {
    const double seconds = seconds_of(body);
    best = std::min(best, seconds);
    spent += seconds;
  }
  return best;
}

struct Unit {
  Operand operand;
  Isa least;
  const char* name;
  int (*run)(std::int64_t rounds);
  double operations;  // in a round
};

// The faster before the slower; the last serves every operand.
std::vector<Unit> units() {
  using namespace ceiling_loops;
  std::vector<Unit> all;
#if defined(__x86_64__)
  all = {{Operand::int8, Isa::amx, "AMX int8", amx_int8, tile_products * 2.0 * 16 * 16 * 64},
         {Operand::int8, Isa::avx512vnni, "VNNI int8", avx512vnni_int8, sums * 2.0 * 64},
         {Operand::int8, Isa::avx512, "AVX-512 int8", avx512_int8, sums * 2.0 * 64},
         {Operand::int8, Isa::avxvnni, "AVX-VNNI int8", avxvnni_int8, sums * 2.0 * 32},
         {Operand::int8, Isa::avx2, "AVX2 int8", avx2_int8, sums * 2.0 * 32},
         {Operand::bf16, Isa::amx, "AMX bf16", amx_bf16, tile_products * 2.0 * 16 * 16 * 32},
         {Operand::bf16, Isa::avx512bf16, "AVX-512 bf16", avx512bf16_bf16, sums * 2.0 * 32}};
#elif defined(__aarch64__)
  all = {{Operand::int8, Isa::i8mm, "SMMLA int8", i8mm_int8, sums * 2.0 * 32},
         {Operand::int8, Isa::dotprod, "SDOT int8", dotprod_int8, sums * 2.0 * 16},
         {Operand::int8, Isa::neon, "NEON int8", neon_int8, sums * 2.0 * 16}};
#endif
  const auto lanes = static_cast<double>(f32_lanes());
  all.push_back({Operand::f32, Isa::portable, "f32 FMA", f32, sums * 2.0 * lanes});
  return all;
}

}  // namespace

Operand operand_of(Compute compute) {
  if (compute == Compute::f32) return Operand::f32;
  return compute == Compute::bf16 ? Operand::bf16 : Operand::int8;
}

double read_ceiling() {
  // Several times any cache's share of a thread; streams of megabytes begin in pages of their own.
  constexpr std::size_t bytes = std::size_t{256} << 20;
  constexpr std::size_t line = sizeof(CacheLine) / sizeof(float);
  const AlignedBuffer memory(bytes);
  const std::int64_t threads = thread_count();
  const std::size_t part = bytes / sizeof(float) / static_cast<std::size_t>(threads);
  const std::size_t length = part / ceiling_loops::streams / line * line;
  const double seconds = best_seconds([&] {
    parallel_for(threads, [&](std::int64_t thread) {
      ceiling_loops::read_streams(
          memory.as<float>() + static_cast<std::size_t>(thread) * length * ceiling_loops::streams, length);
    });
  });
  return static_cast<double>(threads) * static_cast<double>(length * ceiling_loops::streams * sizeof(float)) /
         seconds;
}

ProductCeiling product_ceiling(Operand operand) {
  const auto all = units();
  const Unit& unit = *std::ranges::find_if(all, [&](const Unit& candidate) {
    return allows(candidate.least) && (candidate.operand == operand || candidate.operand == Operand::f32);
  });
  const std::int64_t threads = thread_count();
  const auto seconds = [&](std::int64_t rounds) {
    return seconds_of([&] { parallel_for(threads, [&](std::int64_t) { unit.run(rounds); }); });
  };
  // So many rounds that waking the threads, some 20 us, does not count.
  std::int64_t rounds = 1000;
  while (seconds(rounds) < 0.005) rounds *= 2;
  const double best = best_seconds([&] { seconds(rounds); });
  return {unit.name, unit.operations * static_cast<double>(rounds * threads) / best};
}

}  // namespace fathom
#endif
