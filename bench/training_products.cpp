// bench_training_products: the matrix products of a training step on SmolLM2-135M's shapes, 2,048 rows (4
// sequences of 512), in bf16: forward, gradient of the inputs, gradient of the weights, and what brings their
// operands into form. GFLOP/s, and the share of what this machine's tiles (or vectors) reach with all
// operands in the cache.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <functional>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/multiply.h"
#include "kernels/repack.h"
#include "training.h"

namespace fathom {
namespace {

template <typename T>
struct Matrix {
  Matrix(std::int64_t count_of_rows, std::int64_t count_of_columns)
      : rows(count_of_rows),
        columns(count_of_columns),
        data(static_cast<std::size_t>(rows * columns) * sizeof(T)) {
    std::fill_n(data.as<T>(), rows * columns, T{1});
  }
  DenseMatrix dense() {
    return {sizeof(T) == 2 ? Compute::bf16 : Compute::f32, data.as<T>(), rows, columns, columns};
  }
  HalfRows halves() { return {data.as<std::uint16_t>(), columns}; }
  Destination to(bool accumulate) {
    return {.y = data.as<std::byte>(),
            .type = sizeof(T) == 2 ? Compute::bf16 : Compute::f32,
            .stride = columns,
            .accumulate = accumulate,
            .past_caches = !accumulate};
  }
  std::int64_t rows, columns;
  AlignedBuffer data;
};

// What a layer's products read and write.
struct Layer {
  Layer(std::int64_t rows, std::int64_t out, std::int64_t in)
      : weight(out, in), gradient(out, in), x(rows, in), y(rows, out), dx(rows, in) {}
  Matrix<float> weight, gradient;
  Matrix<std::uint16_t> x, y, dx;
  PackedMatrix ahead, back, inputs;
};

// The median over layers, each of which was last touched a gigabyte ago, as in a step.
double median_seconds(std::deque<Layer>& layers, const std::function<void(Layer&)>& body) {
  std::vector<double> seconds;
  for (Layer& layer : layers) {
    const auto begin = std::chrono::steady_clock::now();
    body(layer);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return median(seconds);
}

void bench_shape(double ceiling, std::int64_t rows, std::int64_t out, std::int64_t in) {
  std::deque<Layer> layers;
  const std::int64_t bytes = 2 * (2 * rows * in + 2 * rows * out + 4 * out * in);
  for (std::int64_t i = 0; i < (std::int64_t{1} << 30) / bytes + 1; ++i) layers.emplace_back(rows, out, in);
  const auto line = [&](const char* what, bool product, const std::function<void(Layer&)>& body) {
    median_seconds(layers, body);
    const double seconds = median_seconds(layers, body);
    const double rate = 2.0 * static_cast<double>(rows * out * in) / seconds;
    fmt::print("{:>5} x {:>5} x {:>4} {:<22} {:8.0f} us", rows, out, in, what, seconds * 1e6);
    if (product) fmt::print(" {:6.0f} GFLOP/s {:4.0f} %", rate * 1e-9, 100 * rate / ceiling);
    fmt::print("\n");
  };
  const auto pack = [](auto to_form, auto& matrix, PackedMatrix& packed) {
    const DenseMatrix dense = matrix.dense();
    to_form(std::span(&dense, 1), packed);
  };
  line("pack W", false, [&](Layer& l) { pack(pack_rows, l.weight, l.ahead); });
  line("pack W, transposed", false, [&](Layer& l) { pack(pack_columns, l.weight, l.back); });
  line("pack x, transposed", false, [&](Layer& l) { pack(pack_columns, l.x, l.inputs); });
  line("y = x W^T", true, [&](Layer& l) { multiply(l.ahead, rows, l.x.halves(), l.y.to(false)); });
  line("dx = dy W", true, [&](Layer& l) { multiply(l.back, rows, l.y.halves(), l.dx.to(false)); });
  line("dW += dy^T x", true, [&](Layer& l) {
    multiply(l.inputs, out, HalfRows{l.y.data.as<std::uint16_t>(), out, true}, l.gradient.to(false));
  });
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  const double ceiling = fathom::begin_bench(argc, argv);
  fathom::bench_shape(ceiling, 2048, 960, 576);
  fathom::bench_shape(ceiling, 2048, 576, 576);
  fathom::bench_shape(ceiling, 2048, 3072, 576);
  fathom::bench_shape(ceiling, 2048, 576, 1536);
  fathom::bench_shape(ceiling, 512, 16384, 576);
  return 0;
}
