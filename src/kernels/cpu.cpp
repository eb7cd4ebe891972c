// The backend for CPUs: brings activations into the form that products read, and shares the work out to
// threads.
#include <fmt/format.h>
#include <hwy/cache_control.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "base/processor.h"
#include "base/threads.h"
#include "kernels/aligned.h"
#include "kernels/attention_work.h"
#include "kernels/backend.h"
#include "kernels/isa.h"
#include "kernels/packed_matrix.h"
#include "kernels/product.h"
#include "kernels/shares.h"
#include "kernels/simd.h"

namespace fathom {
namespace {

// Below about so many values a loop is over before a second thread has woken up (some microseconds).
constexpr std::int64_t serial_values = 16384;
// The same for the multiplications of a product.
constexpr std::int64_t serial_products = 65536;
// Results that no cache keeps until they are read: logits of many rows.
constexpr std::int64_t beyond_caches = 16 << 20;

struct CpuLinear : PackedLinear {
  PackedMatrix matrix;
};

// Calls body(first, last) for one contiguous share of [0, count) on each thread.
template <typename Body>
void share_out(std::int64_t count, std::int64_t values, Body body) {
  if (values < serial_values || count < 2) return body(std::int64_t{0}, count);
  on_each_thread(
      [&](int thread, int threads) { body(count * thread / threads, count * (thread + 1) / threads); });
}

// Logits are summed up in pieces of so many.
constexpr std::int64_t piece_panels = 64, piece_outputs = piece_panels * panel_outputs;

RowSummary joined(std::span<const simd::PieceSummary> pieces) {
  RowSummary row = {.best = 0, .largest = -std::numeric_limits<float>::infinity()};
  row.second = row.largest;
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    if (std::isnan(pieces[p].largest))
      return {.largest = pieces[p].largest, .log_sum_exp = pieces[p].largest};
    row.second = std::max({row.second, pieces[p].second, std::min(row.largest, pieces[p].largest)});
    if (pieces[p].largest <= row.largest) continue;
    row.largest = pieces[p].largest;
    row.best = static_cast<std::int64_t>(p) * piece_outputs + static_cast<std::int64_t>(pieces[p].best);
  }
  double sum = 0, weighted = 0;
  for (const simd::PieceSummary& piece : pieces) {
    const double below = double{piece.largest} - row.largest, scale = std::exp(below);
    sum += piece.sum * scale;
    weighted += (piece.weighted + below * piece.sum) * scale;
  }
  row.log_sum_exp = row.largest + std::log(sum);
  row.entropy = std::log(sum) - weighted / sum;
  return row;
}

std::size_t size(std::int64_t value) { return static_cast<std::size_t>(value); }

class CpuBackend : public Backend {
 public:
  std::string describe() const override {
    return fmt::format("{}, {} threads, {}", processor_name(), thread_count(), isa_name(isa()));
  }
  bool fast_bf16() const override { return native_bf16(); }

  std::unique_ptr<PackedLinear> pack(std::span<const LinearPart> parts, Compute compute) const override {
    return wrap(pack_matrix(parts, false, compute));
  }
  std::unique_ptr<PackedLinear> pack_gated(const LinearPart& gate, const LinearPart& up,
                                           Compute compute) const override {
    return wrap(pack_matrix(std::array{gate, up}, true, compute));
  }
  std::unique_ptr<PackedLinear> view(std::span<const LinearPart> parts, bool gated, Compute type,
                                     std::span<const std::byte> data,
                                     std::shared_ptr<const void> owner) const override {
    auto matrix = view_matrix(parts, gated, type, data, std::move(owner));
    return matrix ? wrap(std::move(*matrix)) : nullptr;
  }

  void linear(const PackedLinear& packed, std::int64_t rows, ConstRows x, float* y, std::int64_t y_stride,
              bool accumulate) const override {
    product(static_cast<const CpuLinear&>(packed).matrix, rows, x,
            {.y = reinterpret_cast<std::byte*>(y), .stride = y_stride, .accumulate = accumulate});
  }
  void linear(const PackedLinear& packed, std::int64_t rows, ConstRows x, Rows y) const override {
    product(static_cast<const CpuLinear&>(packed).matrix, rows, x,
            {.y = y.data,
             .type = y.type,
             .stride = y.stride(),
             .past_caches = rows * y.row_bytes() > beyond_caches});
  }
  void summarise(const PackedLinear& packed, std::int64_t rows, ConstRows x, float softcap,
                 std::span<const Pick> picks, RowSummary* summaries, float* values) const override {
    const PackedMatrix& weight = static_cast<const CpuLinear&>(packed).matrix;
    // As many rows as leave a piece of their outputs in an L2 cache: 128 x 1,024 floats are 512 KB.
    constexpr std::int64_t most_rows = 128;
    for (std::int64_t first = 0; first < rows; first += most_rows) {
      const std::int64_t count = std::min(most_rows, rows - first);
      const auto before = [](std::int64_t row) { return [row](const Pick& pick) { return pick.row < row; }; };
      const auto begin = std::ranges::partition_point(picks, before(first));
      const auto end = std::ranges::partition_point(picks, before(first + count));
      const PieceJob job = {first, count, softcap, {begin, end}, values + (begin - picks.begin())};
      summarise_rows(weight, x.from(first), job, summaries + first);
    }
  }
  void gated_linear(const PackedLinear& packed, std::int64_t rows, ConstRows x, GateActivation activation,
                    const float* addend, Rows y) const override {
    product(static_cast<const CpuLinear&>(packed).matrix, rows, x,
            {.y = y.data, .type = y.type, .stride = y.stride(), .activation = activation, .addend = addend});
  }

  void rms_norm(std::int64_t rows, std::int64_t width, const float* x, const float* gain, float eps,
                Rows y) const override {
    share_out(rows, rows * width, [&](std::int64_t first, std::int64_t last) {
      const auto norm = [&](auto* to) {
        simd::rms_norm(size(last - first), size(width), x + first * width, gain, eps, to, size(y.stride()));
      };
      y.type == Compute::f32 ? norm(y.row<float>(first)) : norm(y.row<std::uint16_t>(first));
    });
  }

  void norm_heads(std::int64_t rows, std::int64_t heads, std::int64_t width, const float* gain, float eps,
                  float* x, std::int64_t stride) const override {
    share_out(rows, rows * heads * width, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t r = first; r < last; ++r)
        simd::rms_norm(size(heads), size(width), x + r * stride, gain, eps, x + r * stride, size(width));
    });
  }

  void rotary(std::int64_t rows, std::int64_t heads, std::int64_t head_dim, const std::int64_t* positions,
              const float* table, float* x, std::int64_t stride) const override {
    share_out(rows, rows * heads * head_dim, [&](std::int64_t first, std::int64_t last) {
      simd::rotary(size(last - first), size(heads), size(head_dim), positions + first, table,
                   x + first * stride, size(stride));
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
    // By rows, as everything before it: a thread finds the keys and values that it has computed in its cache.
    const std::int64_t begin = spans.front().row, end = spans.back().row + spans.back().count;
    share_out(end - begin, (end - begin) * layout.kv_heads * layout.head_dim,
              [&](std::int64_t first, std::int64_t last) {
                const auto ends_before = [&](const AttentionSpan& span) {
                  return span.row + span.count <= begin + first;
                };
                for (auto span = std::ranges::partition_point(spans, ends_before);
                     span != spans.end() && span->row < begin + last; ++span) {
                  AttentionSpan own = *span;
                  own.row = std::max(span->row, begin + first);
                  own.first += own.row - span->row;
                  own.count = std::min(span->row + span->count, begin + last) - own.row;
                  for (std::int64_t head = 0; head < layout.kv_heads; ++head)
                    simd::store_kv(layout, own, head, keys, values, stride);
                }
              });
  }

  void attention(const AttentionShape& shape, std::span<const AttentionSpan> spans, const float* queries,
                 const NewKv& fresh, Rows out) const override {
    attention_.run(shape, spans, queries, store_long(shape, spans, AttentionWork::block_tokens(shape), fresh),
                   out);
  }

 private:
  // Where all spans fit into a block of `step` tokens, each block writes its keys and values itself: a
  // token's keys lie in 32 lines, and of 32 sequences' tokens these take 65 us to come, which attention reads
  // right afterwards. Not where neighbours have the same pages: one's tokens see the other's. Returns what is
  // left to write.
  NewKv store_long(const AttentionShape& shape, std::span<const AttentionSpan> spans, std::int64_t step,
                   const NewKv& fresh) const {
    const auto is_long = [step](const AttentionSpan& span) { return span.count > step; };
    const bool apart = std::ranges::adjacent_find(spans, {}, &AttentionSpan::pages) == spans.end();
    if (fresh.keys == nullptr || (apart && std::ranges::none_of(spans, is_long))) return fresh;
    store_kv(shape.cache, spans, fresh.keys, fresh.values, fresh.stride);
    return {};
  }

  static std::unique_ptr<PackedLinear> wrap(PackedMatrix matrix) {
    auto packed = std::make_unique<CpuLinear>();
    packed->type = matrix.type;
    packed->out = matrix.out;
    packed->in = matrix.in;
    packed->bytes = static_cast<std::int64_t>(matrix.bytes().size() + matrix.bias.size() * sizeof(float));
    packed->matrix = std::move(matrix);
    packed->data = packed->matrix.bytes();
    return packed;
  }

  // What a product needs before it can run.
  struct Prepared {
    ProductKernel kernel;
    bool direct = false;  // activations are the rows that were given
    Activations activations;
    std::int64_t scratch = 0;  // bytes a thread
  };
  Prepared prepare(const PackedMatrix& weight, std::int64_t rows, ConstRows x) const {
    Prepared prepared;
    prepared.kernel = product_kernel(weight.type, isa());
    const std::int64_t granule = prepared.kernel.row_granule;
    prepared.direct = reads_directly(weight, prepared.kernel.form, x.type);
    prepared.activations = prepared.direct ? Activations{x.data, x.row_bytes(), nullptr, nullptr}
                                           : activations_for(weight, prepared.kernel.form,
                                                             (rows + granule - 1) / granule * granule);
    prepared.scratch = (product_scratch_bytes(weight) + 63) / 64 * 64;
    widened_.reserve(size(prepared.scratch * thread_count()));
    return prepared;
  }

  // Of a value.
  static std::int64_t form_bytes(RowForm form) {
    return form == RowForm::int8 ? 1 : form == RowForm::bf16 ? 2 : 4;
  }

  // Rows that lie as the product reads them.
  static bool reads_directly(const PackedMatrix& weight, RowForm form, Compute type) {
    return (form == RowForm::f32 && type == Compute::f32) ||
           (form == RowForm::bf16 && type == Compute::bf16 && weight.padded_in == weight.in);
  }

  // Activations are brought into form by the threads that use them, where those are the same; few values by
  // the caller.
  void product(const PackedMatrix& weight, std::int64_t rows, ConstRows x, const Destination& to) const {
    if (rows == 0) return;
    const Prepared prepared = prepare(weight, rows, x);
    const ProductKernel& kernel = prepared.kernel;
    const Shares shares(weight, rows, form_bytes(kernel.form) * weight.padded_in, kernel, thread_count());
    if (!shares.by_rows()) form_all(weight, prepared, rows, x);
    const auto share = [&](int thread, int threads) {
      const bool alone = threads == 1;
      const Range range = alone ? Range{0, rows} : shares.rows(thread);
      const Range panels = alone ? Range{0, weight.panels()} : shares.panels(thread);
      if (shares.by_rows()) form_rows(weight, prepared, range, x);
      if (range.first < range.last && panels.first < panels.last)
        kernel.run(weight, prepared.activations, range, panels, to,
                   widened_.as<std::byte>() + prepared.scratch * thread);
      if (to.past_caches) hwy::FlushStream();
    };
    if (rows * weight.out * weight.in < serial_products)
      share(0, 1);
    else
      on_each_thread(share);
  }

  void form_all(const PackedMatrix& weight, const Prepared& prepared, std::int64_t rows, ConstRows x) const {
    if (prepared.direct) return;
    share_out(rows, rows * weight.in, [&](std::int64_t first, std::int64_t last) {
      form_rows(weight, prepared, {first, last}, x);
    });
  }

  struct PieceJob {
    std::int64_t first = 0, rows = 0;  // rows of the whole
    float softcap = 0;
    std::span<const Pick> picks;  // of these rows
    float* values = nullptr;
  };

  // Pieces are the same whatever the number of threads, and summed up in their order.
  void summarise_rows(const PackedMatrix& weight, ConstRows x, const PieceJob& job,
                      RowSummary* summaries) const {
    const std::int64_t pieces = (weight.panels() + piece_panels - 1) / piece_panels;
    const Prepared prepared = prepare(weight, job.rows, x);
    form_all(weight, prepared, job.rows, x);
    const std::int64_t buffer = job.rows * piece_outputs;
    outputs_.reserve(size(buffer * thread_count()) * sizeof(float));
    pieces_.resize(size(pieces * job.rows));
    std::atomic<std::int64_t> next = 0;
    on_each_thread([&](int thread, int) {
      float* y = outputs_.as<float>() + buffer * thread;
      for (std::int64_t piece = next++; piece < pieces; piece = next++) {
        const Range panels = {piece * piece_panels, std::min((piece + 1) * piece_panels, weight.panels())};
        const std::int64_t first = piece * piece_outputs;
        const std::int64_t count = std::min(piece_outputs, weight.out - first);
        prepared.kernel.run(
            weight, prepared.activations, {0, job.rows}, panels,
            {.y = reinterpret_cast<std::byte*>(y), .stride = piece_outputs, .first_output = first},
            widened_.as<std::byte>() + prepared.scratch * thread);
        auto pick = job.picks.begin();
        for (std::int64_t r = 0; r < job.rows; ++r) {
          float* row = y + r * piece_outputs;
          pieces_[size(r * pieces + piece)] = simd::summarise(size(count), job.softcap, row);
          for (; pick != job.picks.end() && pick->row == job.first + r; ++pick)
            if (pick->output >= first && pick->output < first + count)
              job.values[pick - job.picks.begin()] = row[pick->output - first];
        }
      }
    });
    for (std::int64_t r = 0; r < job.rows; ++r)
      summaries[r] = joined(std::span(pieces_).subspan(size(r * pieces), size(pieces)));
  }

  // Where the rows of activations for this weight lie.
  Activations activations_for(const PackedMatrix& weight, RowForm form, std::int64_t rows) const {
    const std::int64_t stride = weight.padded_in * form_bytes(form) * (form == RowForm::int8 ? 16 : 1);
    formed_.reserve(size((form == RowForm::int8 ? (rows + 15) / 16 : rows) * stride));
    const auto grow = [](auto& values, std::int64_t count) {
      values.resize(std::max(values.size(), size(count)));
    };
    const std::int64_t of_groups = (rows + 15) / 16 * 16 * weight.groups();
    grow(row_scales_, weight.grouped() ? of_groups : rows);
    if (weight.sums_activations()) grow(group_sums_, of_groups);
    if (weight.minima) grow(scaled_sums_, of_groups);
    return {formed_.as<std::byte>(), stride, row_scales_.data(), group_sums_.data(), scaled_sums_.data()};
  }

  void form_rows(const PackedMatrix& weight, const Prepared& prepared, Range rows, ConstRows x) const {
    if (prepared.direct) return;
    for (std::int64_t r = rows.first; r < rows.last; ++r) {
      if (x.type == Compute::f32)
        form_row(weight, prepared, r, x.row<float>(r));
      else
        form_row(weight, prepared, r, x.row<std::uint16_t>(r));
    }
  }

  // T is float or uint16_t (bf16).
  template <typename T>
  void form_row(const PackedMatrix& weight, const Prepared& prepared, std::int64_t r, const T* from) const {
    const std::size_t width = size(weight.in), rest = size(weight.padded_in - weight.in);
    const Activations& to = prepared.activations;
    std::byte* data = formed_.as<std::byte>();
    auto* floats = reinterpret_cast<float*>(data + r * to.stride);
    auto* halves = reinterpret_cast<std::uint16_t*>(floats);
    constexpr bool rounded = std::is_same_v<T, std::uint16_t>;
    switch (prepared.kernel.form) {
      case RowForm::f32:
      case RowForm::rounded:
        if constexpr (rounded)
          simd::widen_bf16(width, from, floats);
        else
          simd::round_to_bf16(width, from, floats);
        std::fill_n(floats + width, rest, 0.0F);
        break;
      case RowForm::bf16:
        if constexpr (rounded)
          std::copy_n(from, width, halves);
        else
          simd::activations_to_bf16(width, from, halves);
        std::fill_n(halves + width, rest, std::uint16_t{0});
        break;
      case RowForm::int8: {
        auto* row = reinterpret_cast<std::int8_t*>(data + tiled_offset(to.stride, r, 0));
        const std::int64_t groups = weight.groups(), at = group_offset(groups, r, 0);
        const std::size_t padded = size(weight.padded_in);
        if (!weight.grouped())
          row_scales_[size(r)] = simd::to_int8(width, padded, from, row);
        else
          simd::to_int8_groups(width, padded, size(weight.group), from, row, row_scales_.data() + at);
        if (weight.sums_activations())
          simd::sum_groups(size(groups), size(weight.group), row, group_sums_.data() + at);
        if (weight.minima)
          for (std::int64_t i = at; i < at + 16 * groups; i += 16)
            scaled_sums_[size(i)] = row_scales_[size(i)] * static_cast<float>(group_sums_[size(i)]);
        break;
      }
    }
  }

  mutable AlignedBuffer formed_;  // activations in the form that a product reads
  mutable std::vector<float> row_scales_;
  mutable std::vector<std::int32_t> group_sums_;
  mutable std::vector<float> scaled_sums_;
  mutable AlignedBuffer widened_;  // scratch of products, a part for each thread
  mutable AlignedBuffer outputs_;  // of a summary's pieces, a part for each thread
  mutable std::vector<simd::PieceSummary> pieces_;
  mutable AttentionWork attention_;
};

}  // namespace

RowSummary summary_of(std::span<const float> row) {
  std::vector<simd::PieceSummary> pieces;
  for (std::size_t at = 0; at < row.size(); at += size(piece_outputs)) {
    const std::size_t count = std::min(size(piece_outputs), row.size() - at);
    // Without a cap nothing is written.
    pieces.push_back(simd::summarise(count, 0, const_cast<float*>(row.data() + at)));
  }
  return joined(pieces);
}

std::unique_ptr<Backend> make_cpu_backend() { return std::make_unique<CpuBackend>(); }

}  // namespace fathom
