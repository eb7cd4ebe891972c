// bench_training_attention: attention in training and its way back, in bf16, on SmolLM2-135M's shape and
// longer sequences; each layer was last touched a gigabyte ago, as in a step. Microseconds a layer, GFLOP/s
// (of the scores that causality leaves: 4 operations a query, key and dimension, 10 on the way back), and the
// share of what this machine's tiles (or vectors) reach with all operands in the cache.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <vector>

#include "formats/float16.h"
#include "kernels/aligned.h"
#include "train/kernels/attention.h"
#include "training.h"

namespace fathom {
namespace {

AlignedBuffer random_halves(std::int64_t count, std::mt19937& random) {
  AlignedBuffer values(static_cast<std::size_t>(count) * 2);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::generate_n(values.as<std::uint16_t>(), count, [&] { return to_bf16(uniform(random)); });
  return values;
}

struct Layer {
  AlignedBuffer qkv, mixed, d_mixed, d_qkv, log_sums;
};

void bench_shape(double ceiling, std::int64_t sequences, std::int64_t positions) {
  const AttentionForm form{.heads = 9, .kv_heads = 3, .head_dim = 64, .positions = positions, .scale = 0.125};
  const std::int64_t rows = sequences * positions, wide = rows * form.qkv_width(), narrow = rows * 576;
  std::mt19937 random(1);
  const AlignedBuffer values = random_halves(wide, random);
  std::vector<Layer> layers(static_cast<std::size_t>((std::int64_t{1} << 30) / (4 * (wide + narrow)) + 1));
  for (Layer& layer : layers) {
    layer = {values, values, values, values, AlignedBuffer(static_cast<std::size_t>(rows * form.heads) * 4)};
  }
  using Clock = std::chrono::steady_clock;
  std::vector<double> ahead, back;
  for (int pass = 0; pass < 2; ++pass) {
    ahead.clear(), back.clear();
    for (Layer& layer : layers) {
      auto* qkv = layer.qkv.as<std::uint16_t>();
      auto* mixed = layer.mixed.as<std::uint16_t>();
      auto* log_sums = layer.log_sums.as<float>();
      const auto begin = Clock::now();
      attention(sequences, form, qkv, mixed, log_sums);
      const auto middle = Clock::now();
      attention_backward(sequences, form, qkv, mixed, log_sums, layer.d_mixed.as<std::uint16_t>(),
                         layer.d_qkv.as<std::uint16_t>());
      ahead.push_back(std::chrono::duration<double>(middle - begin).count());
      back.push_back(std::chrono::duration<double>(Clock::now() - middle).count());
    }
  }
  const double seen = static_cast<double>(sequences * form.heads * positions * (positions + 1) / 2);
  const auto line = [&](const char* what, double operations, double seconds) {
    const double rate = operations * seen * static_cast<double>(form.head_dim) / seconds;
    fmt::print("{:>2} x {:>5} positions {:<8} {:8.0f} us {:6.0f} GFLOP/s {:4.0f} %\n", sequences, positions,
               what, seconds * 1e6, rate * 1e-9, 100 * rate / ceiling);
  };
  line("forward", 4, median(ahead));
  line("backward", 10, median(back));
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  const double ceiling = fathom::begin_bench(argc, argv);
  fathom::bench_shape(ceiling, 2, 512);
  fathom::bench_shape(ceiling, 1, 2048);
  fathom::bench_shape(ceiling, 2, 70);
  return 0;
}
