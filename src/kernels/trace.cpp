// A backend that passes everything on and writes a line about each operation.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>

#include "kernels/backend.h"

namespace fathom {
namespace {

struct TracedLinear : PackedLinear {
  std::unique_ptr<PackedLinear> packed;
};

class TracingBackend : public Backend {
 public:
  TracingBackend(std::unique_ptr<Backend> backend, std::FILE* to) : backend_(std::move(backend)), to_(to) {
    fmt::print(to_, "{:<12} {:<28} {:>10} {:>10} {:>8}\n", "operation", "shape", "us", "GFLOP/s", "GB/s");
  }

  std::string describe() const override { return backend_->describe(); }
  bool fast_bf16() const override { return backend_->fast_bf16(); }

  std::unique_ptr<PackedLinear> pack(std::span<const LinearPart> parts, Compute compute) const override {
    return traced(backend_->pack(parts, compute));
  }
  std::unique_ptr<PackedLinear> pack_gated(const LinearPart& gate, const LinearPart& up,
                                           Compute compute) const override {
    return traced(backend_->pack_gated(gate, up, compute));
  }
  std::unique_ptr<PackedLinear> view(std::span<const LinearPart> parts, bool gated, Compute type,
                                     std::span<const std::byte> data,
                                     std::shared_ptr<const void> owner) const override {
    auto packed = backend_->view(parts, gated, type, data, std::move(owner));
    return packed == nullptr ? nullptr : traced(std::move(packed));
  }

  void linear(const PackedLinear& weight, std::int64_t rows, ConstRows x, float* y, std::int64_t y_stride,
              bool accumulate) const override {
    product("linear", weight, rows,
            [&](const PackedLinear& packed) { backend_->linear(packed, rows, x, y, y_stride, accumulate); });
  }
  void linear(const PackedLinear& weight, std::int64_t rows, ConstRows x, Rows y) const override {
    product("linear", weight, rows,
            [&](const PackedLinear& packed) { backend_->linear(packed, rows, x, y); });
  }
  void summarise(const PackedLinear& weight, std::int64_t rows, ConstRows x, float softcap,
                 std::span<const Pick> picks, RowSummary* summaries, float* values_of) const override {
    product("summarise", weight, rows, [&](const PackedLinear& packed) {
      backend_->summarise(packed, rows, x, softcap, picks, summaries, values_of);
    });
  }
  void gated_linear(const PackedLinear& weight, std::int64_t rows, ConstRows x, GateActivation activation,
                    const float* addend, Rows y) const override {
    product("gated_linear", weight, rows, [&](const PackedLinear& packed) {
      backend_->gated_linear(packed, rows, x, activation, addend, y);
    });
  }

  void rms_norm(std::int64_t rows, std::int64_t width, const float* x, const float* gain, float eps,
                Rows y) const override {
    values("rms_norm", rows, width, [&] { backend_->rms_norm(rows, width, x, gain, eps, y); });
  }
  void norm_heads(std::int64_t rows, std::int64_t heads, std::int64_t width, const float* gain, float eps,
                  float* x, std::int64_t stride) const override {
    values("norm_heads", rows, heads * width,
           [&] { backend_->norm_heads(rows, heads, width, gain, eps, x, stride); });
  }
  void rotary(std::int64_t rows, std::int64_t heads, std::int64_t head_dim, const std::int64_t* positions,
              const float* table, float* x, std::int64_t stride) const override {
    values("rotary", rows, heads * head_dim,
           [&] { backend_->rotary(rows, heads, head_dim, positions, table, x, stride); });
  }
  void add(std::int64_t count, const float* x, float* y) const override {
    values("add", 1, count, [&] { backend_->add(count, x, y); });
  }
  void softcap(std::int64_t count, float c, float* x) const override {
    values("softcap", 1, count, [&] { backend_->softcap(count, c, x); });
  }
  void store_kv(const KvLayout& layout, std::span<const AttentionSpan> spans, const float* keys,
                const float* values_of, std::int64_t stride) const override {
    std::int64_t rows = 0;
    for (const AttentionSpan& span : spans) rows += span.count;
    values("store_kv", rows, 2 * layout.kv_heads * layout.head_dim,
           [&] { backend_->store_kv(layout, spans, keys, values_of, stride); });
  }
  void attention(const AttentionShape& shape, std::span<const AttentionSpan> spans, const float* queries,
                 const NewKv& fresh, Rows out) const override {
    // Each row meets all keys before it: two operations for a score and two for its value, a dimension each.
    double rows = 0, pairs = 0, positions = 0;
    for (const AttentionSpan& span : spans) {
      const auto count = static_cast<double>(span.count), first = static_cast<double>(span.first);
      rows += count;
      pairs += count * (first + (count + 1) / 2);
      positions += first + count;
    }
    const auto width = static_cast<double>(shape.heads * shape.cache.head_dim);
    const double bytes = positions * static_cast<double>(shape.cache.page_bytes()) / page_positions;
    timed("attention", fmt::format("{} seq {} rows {} keys", spans.size(), rows, positions),
          4 * width * pairs, bytes, [&] { backend_->attention(shape, spans, queries, fresh, out); });
  }

 private:
  static std::unique_ptr<PackedLinear> traced(std::unique_ptr<PackedLinear> packed) {
    auto wrapped = std::make_unique<TracedLinear>();
    wrapped->type = packed->type;
    wrapped->out = packed->out;
    wrapped->in = packed->in;
    wrapped->bytes = packed->bytes;
    wrapped->data = packed->data;
    wrapped->packed = std::move(packed);
    return wrapped;
  }

  template <typename Body>
  void timed(const char* operation, const std::string& shape, double operations, double bytes,
             Body body) const {
    const auto start = std::chrono::steady_clock::now();
    body();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    fmt::print(to_, "{:<12} {:<28} {:>10.1f} {:>10.1f} {:>8.1f}\n", operation, shape, seconds * 1e6,
               operations / seconds * 1e-9, bytes / seconds * 1e-9);
  }

  template <typename Body>
  void product(const char* operation, const PackedLinear& weight, std::int64_t rows, Body body) const {
    const auto& own = static_cast<const TracedLinear&>(weight);
    timed(operation, fmt::format("{} x {} x {} {}", rows, own.out, own.in, compute_name(own.type)),
          2.0 * static_cast<double>(rows * own.out * own.in), static_cast<double>(own.bytes),
          [&] { body(*own.packed); });
  }

  // Operations that read and write each value once.
  template <typename Body>
  void values(const char* operation, std::int64_t rows, std::int64_t width, Body body) const {
    timed(operation, fmt::format("{} x {}", rows, width), static_cast<double>(rows * width),
          8.0 * static_cast<double>(rows * width), body);
  }

  std::unique_ptr<Backend> backend_;
  std::FILE* to_;
};

}  // namespace

std::unique_ptr<Backend> make_tracing_backend(std::unique_ptr<Backend> backend, std::FILE* to) {
  return std::make_unique<TracingBackend>(std::move(backend), to);
}

}  // namespace fathom
