// bench_training_optimiser: AdamW over the matrices of SmolLM2-135M's 30 layers, the packing of both forms
// for the products of the next step, and both in one, as a step does it. Milliseconds, GB/s of what each must
// read and write, and the share of what this machine reads in a loop that only reads.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/ceilings.h"
#include "kernels/repack.h"
#include "train/kernels/optimiser_kernels.h"
#include "training.h"

namespace fathom {
namespace {

struct Weight {
  Weight(std::int64_t count_of_rows, std::int64_t count_of_columns)
      : rows(count_of_rows), columns(count_of_columns) {
    for (AlignedBuffer* buffer : {&values, &gradient, &average, &square})
      *buffer = AlignedBuffer(static_cast<std::size_t>(rows * columns) * sizeof(float));
    pack();
  }

  void pack() {
    const DenseMatrix matrix = dense();
    pack_rows({&matrix, 1}, ahead);
    pack_columns({&matrix, 1}, back);
  }
  template <typename... How>
  void update(const How&... how) {
    const auto all = [&](AlignedBuffer& buffer) {
      return std::span(buffer.as<float>(), static_cast<std::size_t>(rows * columns));
    };
    adamw_update({.learning_rate = 1e-3F}, all(values), all(gradient), all(average), all(square), how...);
  }
  void update_and_follow() {
    update(columns, [this](const MatrixPart& part) {
      repack_rows(dense(), part, 0, ahead);
      repack_columns(dense(), part, 0, back);
    });
  }
  DenseMatrix dense() const { return {Compute::f32, values.as<float>(), rows, columns, columns}; }

  std::int64_t rows, columns;
  AlignedBuffer values, gradient, average, square;
  PackedMatrix ahead, back;
};

void bench() {
  std::deque<Weight> weights;
  std::int64_t count = 0;
  for (int layer = 0; layer < 30; ++layer) {
    for (const auto& [rows, columns] : {std::pair(960, 576), {576, 576}, {3072, 576}, {576, 1536}}) {
      weights.emplace_back(rows, columns);
      count += weights.back().rows * weights.back().columns;
    }
  }
  const double ceiling = read_ceiling();
  fmt::print("reading: {:.1f} GB/s\n", ceiling * 1e-9);
  double apart = 0;
  const auto line = [&](const char* what, int bytes, const std::function<void(Weight&)>& body) {
    std::vector<double> seconds;
    for (int pass = 0; pass < 6; ++pass) {
      const auto begin = std::chrono::steady_clock::now();
      for (Weight& weight : weights) body(weight);
      if (pass > 0)
        seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    const double middle = median(seconds), rate = static_cast<double>(count * bytes) / middle;
    fmt::print("{:<28} {:6.1f} ms {:5.1f} GB/s {:4.0f} %\n", what, middle * 1e3, rate * 1e-9,
               100 * rate / ceiling);
    return middle;
  };
  apart += line("AdamW", 28, [](Weight& weight) { weight.update(); });
  apart += line("both forms packed", 12, [](Weight& weight) { weight.pack(); });
  const double together =
      line("AdamW, both forms following", 32, [](Weight& weight) { weight.update_and_follow(); });
  fmt::print("together in {:.2f} of the time of one after the other\n", together / apart);
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  fathom::begin_bench(argc, argv);
  fathom::bench();
  return 0;
}
