// The backend for CPUs: shares the work out to threads; the operations themselves are oneDNN's (products of
// many rows) and those of simd.h.
#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <vector>

#include "base/threads.h"
#include "kernels/aligned.h"
#include "kernels/backend.h"
#include "kernels/isa.h"
#include "kernels/matrix_product.h"
#include "kernels/panels.h"
#include "kernels/simd.h"
#include "kernels/tile_attention.h"

namespace fathom {
namespace {

// Up to so many rows, reading the weights takes longer than the arithmetic of vectors, and the own product
// reads them faster than oneDNN: in float32 one tile of 6 rows, in bf16 3 rows with two panels side by side.
// More rows are oneDNN's (bench_kernels shows both).
constexpr std::int64_t few_rows_f32 = 6;
constexpr std::int64_t few_rows_bf16 = 3;

// Below about so many values a loop is over before a second thread has woken up (some microseconds).
constexpr std::int64_t serial_values = 16384;

struct CpuLinear : PackedLinear {
  PanelMatrix matrix;
  std::vector<float> bias;
};

// Calls body(first, last) for one contiguous share of [0, count) on each thread.
template <typename Body>
void share_out(std::int64_t count, std::int64_t values, Body body) {
  if (values < serial_values || count < 2) return body(std::int64_t{0}, count);
#pragma omp parallel
  {
    const std::int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
    body(count * thread / threads, count * (thread + 1) / threads);
  }
}

std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }

class CpuBackend : public Backend {
 public:
  std::string describe() const override {
    const char* wide = products_.supports(Compute::f32) ? "oneDNN AVX-512" : "own panels";
    const char* narrow = products_.supports(Compute::bf16) ? "oneDNN AMX" : "own panels";
    return fmt::format("CPU, {} threads, {} vectors; products f32: {}, bf16: {}", thread_count(),
                       simd::target_name(), wide, narrow);
  }
  bool fast_bf16() const override { return products_.supports(Compute::bf16); }

  std::unique_ptr<PackedLinear> pack(const Tensor& weight, const Tensor* bias,
                                     Compute compute) const override {
    auto packed = std::make_unique<CpuLinear>();
    packed->matrix = pack_panels(weight, compute);
    packed->out = packed->matrix.out;
    packed->in = packed->matrix.in;
    if (bias != nullptr) packed->bias = decode(*bias);
    packed->bytes =
        static_cast<std::int64_t>(packed->matrix.data.size() + packed->bias.size() * sizeof(float));
    return packed;
  }

  void linear(const PackedLinear& packed, std::int64_t rows, const float* x, float* y,
              bool accumulate) const override {
    if (rows == 0) return;
    const auto& weight = static_cast<const CpuLinear&>(packed);
    const Compute type = weight.matrix.type;
    const bool few = rows <= (type == Compute::f32 ? few_rows_f32 : few_rows_bf16);
    if (few || !products_.supports(type)) return panel_linear(weight, rows, x, y, accumulate);
    const float* bias = weight.bias.empty() ? nullptr : weight.bias.data();
    if (type == Compute::f32)
      products_.run(weight.matrix, bias, rows, x, y, accumulate);
    else
      products_.run(weight.matrix, bias, rows, to_bf16(rows * weight.in, x), y, accumulate);
  }

  void rms_norm(std::int64_t rows, std::int64_t width, const float* x, const float* gain, float eps,
                float* y) const override {
    share_out(rows, rows * width, [&](std::int64_t first, std::int64_t last) {
      simd::rms_norm(size(last - first), size(width), x + first * width, gain, eps, y + first * width);
    });
  }

  void rotary(std::int64_t rows, std::int64_t heads, std::int64_t head_dim, const std::int64_t* positions,
              const float* table, float* x) const override {
    const std::int64_t width = heads * head_dim;
    share_out(rows, rows * width, [&](std::int64_t first, std::int64_t last) {
      simd::rotary(size(last - first), size(heads), size(head_dim), positions + first, table,
                   x + first * width);
    });
  }

  void gated_activation(std::int64_t rows, std::int64_t width, GateActivation activation, float* gate,
                        const float* up) const override {
    share_out(rows * width, rows * width, [&](std::int64_t first, std::int64_t last) {
      simd::gated_activation(size(last - first), activation, gate + first, up + first);
    });
  }

  void add(std::int64_t count, const float* x, float* y) const override {
    share_out(count, count, [&](std::int64_t first, std::int64_t last) {
      simd::add(size(last - first), x + first, y + first);
    });
  }

  void softcap(std::int64_t count, float c, float* x) const override {
    share_out(count, count, [&](std::int64_t first, std::int64_t last) {
      simd::softcap(size(last - first), c, x + first);
    });
  }

  void store_kv(const KvLayout& layout, std::span<const AttentionSpan> spans, const float* keys,
                const float* values, std::int64_t stride) const override {
    std::int64_t rows = 0;
    for (const AttentionSpan& span : spans) rows += span.count;
    const auto units = static_cast<std::int64_t>(spans.size()) * layout.kv_heads;
    share_out(units, rows * layout.kv_heads * layout.head_dim, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t unit = first; unit < last; ++unit) {
        const AttentionSpan& span = spans[size(unit / layout.kv_heads)];
        if (layout.type == Compute::f32)
          simd::store_kv<float>(layout, span, unit % layout.kv_heads, keys, values, stride);
        else
          simd::store_kv<std::uint16_t>(layout, span, unit % layout.kv_heads, keys, values, stride);
      }
    });
  }

  void attention(const AttentionShape& shape, std::span<const AttentionSpan> spans, const float* queries,
                 float* out) const override {
#if defined(__x86_64__)
    if (isa() == Isa::amx && shape.cache.type == Compute::bf16)
      return tile_attention_.run(shape, spans, queries, out);
#endif
    const std::int64_t step = simd::attention_block_tokens(shape);
    blocks_.clear();
    for (const AttentionSpan& span : spans)
      for (std::int64_t end = span.count; end > 0; end -= step)
        for (std::int64_t head = 0; head < shape.cache.kv_heads; ++head)
          blocks_.push_back({&span, size(head), std::max<std::int64_t>(0, end - step), end});
    // Later tokens see more keys: from the last to the first, the threads end together.
    const std::size_t scratch = (simd::attention_scratch(shape) + 15) / 16 * 16;
    scratch_.reserve(scratch * sizeof(float) * size(thread_count()));
#pragma omp parallel for schedule(dynamic) if (blocks_.size() > 1)
    for (std::size_t i = 0; i < blocks_.size(); ++i)
      simd::attention(shape, blocks_[i], queries, out,
                      scratch_.as<float>() + scratch * size(omp_get_thread_num()));
  }

 private:
  const std::uint16_t* to_bf16(std::int64_t count, const float* x) const {
    rounded_.reserve(size(count) * sizeof(std::uint16_t));
    auto* y = rounded_.as<std::uint16_t>();
    share_out(count, count, [&](std::int64_t first, std::int64_t last) {
      simd::to_bf16(size(last - first), x + first, y + first);
    });
    return y;
  }

  // The own product; each thread has a share of the panels.
  void panel_linear(const CpuLinear& weight, std::int64_t rows, const float* x, float* y,
                    bool accumulate) const {
    std::int64_t stride = weight.in;
    if (weight.matrix.type == Compute::bf16) {
      stride = (weight.in + 1) / 2 * 2;  // pairs; the padding was zeroed when the buffer was made
      rounded_.reserve(size(rows * stride) * sizeof(float));
      auto* rounded = rounded_.as<float>();
      for (std::int64_t r = 0; r < rows; ++r) {
        rounded[(r + 1) * stride - 1] = 0;
        simd::round_to_bf16(size(weight.in), x + r * weight.in, rounded + r * stride);
      }
      x = rounded;
    }
    const std::int64_t vectors =
        rows * weight.out * weight.in / 16;  // each about as much work as a value elsewhere
    share_out(weight.matrix.panels(), vectors, [&](std::int64_t first, std::int64_t last) {
      simd::panel_product(weight.matrix, size(first), size(last), size(rows), x, size(stride), y, accumulate);
    });
    if (!weight.bias.empty())
      for (std::int64_t r = 0; r < rows; ++r)
        simd::add(size(weight.out), weight.bias.data(), y + r * weight.out);
  }

  mutable MatrixProduct products_;
  mutable AlignedBuffer rounded_;  // activations as bf16
  mutable AlignedBuffer scratch_;  // of attention, a part for each thread
  mutable std::vector<simd::AttentionBlock> blocks_;
  mutable TileAttention tile_attention_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend>(); }

}  // namespace fathom
