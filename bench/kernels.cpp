// bench_kernels: each operation on the shapes of SmolLM2-135M beside what this machine reaches, measured in
// the same minute: GFLOP/s and GB/s (best of several runs), and the share of the ceiling that binds. Weights
// are kept in so many copies that they come from memory, as they do in a model.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "base/threads.h"
#include "kernels/aligned.h"
#include "kernels/backend.h"
#include "kernels/ceilings.h"
#include "kernels/simd.h"

namespace fathom {
namespace {

// The best of up to 7 runs, or of 2 where they take long.
double best_seconds(const std::function<void()>& body) {
  double best = 1e9;
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 7; ++i) {
    if (i >= 2 && std::chrono::steady_clock::now() - start > std::chrono::milliseconds(200)) break;
    const auto begin = std::chrono::steady_clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

std::vector<float> normals(std::int64_t count) {
  Random random(1);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& v : values) v = static_cast<float>(random.normal());
  return values;
}

struct Ceilings {
  double bytes = read_ceiling();  // a second
  double operations(Compute type) const { return products[static_cast<std::size_t>(operand_of(type))]; }
  double products[3] = {product_ceiling(Operand::f32).rate, product_ceiling(Operand::bf16).rate,
                        product_ceiling(Operand::int8).rate};  // operations a second
};

void bench_linear(const Backend& backend, const Ceilings& ceilings, std::int64_t out, std::int64_t in,
                  Compute type) {
  const Tensor weight = make_tensor(DType::f32, {out, in}, normals(out * in));
  std::vector<std::unique_ptr<PackedLinear>> layers;
  do {
    layers.push_back(backend.pack(std::vector<LinearPart>{{&weight, nullptr}}, type));
  } while (layers.front()->bytes * std::ssize(layers) < std::int64_t{96} << 20);
  const auto bytes = static_cast<double>(layers.front()->bytes);
  for (const std::int64_t rows : {1, 2, 4, 8, 16, 32, 128, 512}) {
    if (rows * out > (std::int64_t{1} << 23)) continue;
    const auto x = normals(rows * in);
    const auto x_rows = float_rows(x.data(), in);
    std::vector<float> y(static_cast<std::size_t>(rows * out));
    const double seconds = best_seconds([&] {
                             for (const auto& layer : layers)
                               backend.linear(*layer, rows, x_rows, y.data(), out, false);
                           }) /
                           static_cast<double>(layers.size());
    const double operations = 2.0 * static_cast<double>(rows * out * in);
    const double least = std::max(bytes / ceilings.bytes, operations / ceilings.operations(type));
    fmt::print("{:>4} x {:>5} x {:>4} {:4} {:9.1f} us {:7.1f} GFLOP/s {:6.1f} GB/s {:4.0f} %\n", rows, out,
               in, compute_name(type), seconds * 1e6, operations / seconds * 1e-9, bytes / seconds * 1e-9,
               100 * least / seconds);
  }
}

// Some sequences' pages at one layer, with keys and values of one size.
struct Cache {
  Cache(const KvLayout& layout, std::int64_t sequences, std::int64_t first, std::int64_t count) {
    pages.resize(static_cast<std::size_t>(sequences));
    for (std::int64_t s = 0; s < sequences; ++s) {
      auto& own = pages[static_cast<std::size_t>(s)];
      for (std::int64_t p = 0; p < first + count; p += page_positions) {
        memory.emplace_back(static_cast<std::size_t>(layout.page_bytes()));
        std::fill_n(memory.back().as<std::byte>(), layout.page_bytes(), std::byte{0x3c});
        own.push_back(memory.back().as<std::byte>());
      }
      spans.push_back({.row = s * count, .count = count, .first = first, .pages = own.data()});
    }
  }
  std::vector<AlignedBuffer> memory;
  std::vector<std::vector<std::byte*>> pages;
  std::vector<AttentionSpan> spans;
};

// The kernel of vectors, whatever the backend chooses.
void attention_by_vectors(const AttentionShape& shape, const std::vector<AttentionSpan>& spans,
                          const std::vector<float>& queries, std::vector<float>& out) {
  const std::int64_t step = simd::attention_block_tokens(shape);
  std::vector<simd::AttentionBlock> blocks;
  for (const AttentionSpan& span : spans)
    for (std::int64_t end = span.count; end > 0; end -= step)
      for (std::int64_t head = 0; head < shape.cache.kv_heads; ++head)
        blocks.push_back({&span, static_cast<std::size_t>(head), std::max<std::int64_t>(0, end - step), end});
  const std::size_t scratch = (simd::attention_scratch(shape) + 15) / 16 * 16;
  AlignedBuffer memory(scratch * sizeof(float) * static_cast<std::size_t>(thread_count()));
  std::atomic<std::size_t> next = 0;
  parallel_for(thread_count(), [&](std::int64_t thread) {
    for (std::size_t i = next++; i < blocks.size(); i = next++)
      simd::attention(shape, blocks[i], queries.data(),
                      float_rows(out.data(), shape.heads * shape.cache.head_dim),
                      memory.as<float>() + static_cast<std::size_t>(thread) * scratch);
  });
}

void bench_attention(const Backend& backend, const Ceilings& ceilings, Compute type, std::int64_t sequences,
                     std::int64_t first, std::int64_t count) {
  const KvLayout layout = {.kv_heads = 3, .head_dim = 64, .type = type};
  const AttentionShape shape = {
      .heads = 9, .query_stride = 9 * 64, .cache = layout, .window = 0, .scale = 0.125F, .softcap = 0};
  const double bytes =
      static_cast<double>(sequences * (first + count) * layout.page_bytes() / page_positions);
  // A token's layers follow one another, so the next one's pages come from memory; many tokens read theirs
  // often.
  const double copies = count > 1 ? 1 : std::ceil(96e6 / bytes);
  std::vector<Cache> layers;
  for (int i = 0; i < copies; ++i) layers.emplace_back(layout, sequences, first, count);
  const auto queries = normals(sequences * count * shape.heads * layout.head_dim);
  std::vector<float> out(queries.size());
  const double seconds = best_seconds([&] {
                           for (const Cache& layer : layers)
                             backend.attention(shape, layer.spans, queries.data(), {},
                                               float_rows(out.data(), shape.heads * shape.cache.head_dim));
                         }) /
                         copies;
  const double by_vectors = best_seconds([&] {
                              for (const Cache& layer : layers)
                                attention_by_vectors(shape, layer.spans, queries, out);
                            }) /
                            copies;
  const double pairs =
      static_cast<double>(count) * (static_cast<double>(first) + (static_cast<double>(count) + 1) / 2);
  const double operations = 4.0 * static_cast<double>(sequences * shape.heads * layout.head_dim) * pairs;
  const double least = std::max(bytes / ceilings.bytes, operations / ceilings.operations(type));
  fmt::print(
      "attention {:3} x {:4} tokens after {:4} {:4} {:9.1f} us {:7.1f} GFLOP/s {:6.1f} GB/s {:4.0f} %"
      " {:5.1f} times as fast as by vectors\n",
      sequences, count, first, compute_name(type), seconds * 1e6, operations / seconds * 1e-9,
      bytes / seconds * 1e-9, 100 * least / seconds, by_vectors / seconds);
}

void bench_elementwise(const Backend& backend, const Ceilings& ceilings) {
  const std::int64_t rows = 512, width = 1536;
  auto x = normals(rows * width);
  const auto other = normals(rows * width);
  const auto line = [&](const char* name, int passes, const std::function<void()>& body) {
    const double bytes = static_cast<double>(rows * width * 4 * passes), seconds = best_seconds(body);
    fmt::print("{:<18} 512 x 1536 {:9.1f} us {:6.1f} GB/s {:4.0f} %\n", name, seconds * 1e6,
               bytes / seconds * 1e-9, 100 * bytes / ceilings.bytes / seconds);
  };
  line("rms_norm", 2,
       [&] { backend.rms_norm(rows, width, x.data(), other.data(), 1e-5F, float_rows(x.data(), width)); });
  line("add", 3, [&] { backend.add(rows * width, other.data(), x.data()); });
  line("softcap", 2, [&] { backend.softcap(rows * width, 30, x.data()); });
}

void run() {
  const auto backend = make_cpu_backend();
  const Ceilings ceilings;
  fmt::print("{}\nceilings: {:.1f} GB/s read, {:.0f} GFLOP/s f32, {:.0f} bf16, {:.0f} int8\n",
             backend->describe(), ceilings.bytes * 1e-9, ceilings.operations(Compute::f32) * 1e-9,
             ceilings.operations(Compute::bf16) * 1e-9, ceilings.operations(Compute::int8) * 1e-9);
  for (const Compute type : {Compute::f32, Compute::bf16, Compute::int8, Compute::int4, Compute::int8_groups,
                             Compute::int6_groups, Compute::int4_groups}) {
    bench_linear(*backend, ceilings, 576, 576, type);
    bench_linear(*backend, ceilings, 960, 576, type);
    bench_linear(*backend, ceilings, 3072, 576, type);
    bench_linear(*backend, ceilings, 576, 1536, type);
    bench_linear(*backend, ceilings, 49152, 576, type);
  }
  for (const Compute type : {Compute::f32, Compute::bf16, Compute::int8}) {
    bench_attention(*backend, ceilings, type, 1, 0, 512);
    bench_attention(*backend, ceilings, type, 1, 0, 4096);
    bench_attention(*backend, ceilings, type, 1, 4095, 1);
    bench_attention(*backend, ceilings, type, 32, 159, 1);
  }
  bench_elementwise(*backend, ceilings);
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  fathom::set_threads(argc > 1 ? std::atoi(argv[1]) : 0);
  fathom::run();
  return 0;
}
