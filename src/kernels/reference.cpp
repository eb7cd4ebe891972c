// Every operation as plain loops: what the other backends are tested against, and what one reads first.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <vector>

#include "kernels/backend.h"
#include "kernels/bf16.h"
#include "kernels/packed_matrix.h"
#include "kernels/quantise.h"

namespace fathom {
namespace {

struct ReferenceLinear : PackedLinear {
  std::vector<float> weight;  // [out, in], as rounded to the type
  std::vector<float> bias;
};

// What a row of weights means once it is held in a type.
void round_weights(Compute compute, std::span<float> row) {
  if (compute == Compute::bf16) {
    for (float& w : row) w = from_bf16(to_bf16(w));
  } else if (compute == Compute::int8) {
    std::vector<std::int8_t> q(row.size());
    const float scale = quantise_int8(row, q);
    std::ranges::transform(q, row.begin(), [scale](std::int8_t v) { return scale * static_cast<float>(v); });
  } else if (compute == Compute::int4) {
    std::vector<std::int8_t> q(row.size()), multipliers((row.size() + group_size - 1) / group_size);
    const float scale = quantise_int4(row, q, multipliers);
    for (std::size_t i = 0; i < row.size(); ++i)
      row[i] = scale * static_cast<float>(multipliers[i / group_size] * q[i]);
  } else if (is_grouped(compute)) {
    for (; !row.empty(); row = row.subspan(std::min<std::size_t>(group_size, row.size()))) {
      const std::span<float> group = row.first(std::min<std::size_t>(group_size, row.size()));
      std::vector<std::int8_t> q(group.size());
      const float scale = compute == Compute::int4_groups   ? quantise_int4_group(group, q)
                          : compute == Compute::int6_groups ? quantise_int6_group(group, q)
                                                            : quantise_int8_group(group, q);
      std::ranges::transform(q, group.begin(),
                             [scale](std::int8_t v) { return scale * static_cast<float>(v); });
    }
  }
}

// The same for a row of activations.
std::vector<float> rounded_activations(Compute compute, std::span<const float> row) {
  std::vector<float> rounded(row.begin(), row.end());
  if (compute == Compute::bf16) {
    for (float& v : rounded) v = from_bf16(to_bf16(v));
  } else if (compute != Compute::f32) {
    const std::size_t step = is_grouped(compute) ? group_size : row.size();
    std::vector<std::int8_t> q(step);
    for (std::size_t at = 0; at < row.size(); at += step) {
      const auto part = std::span(rounded).subspan(at, std::min(step, row.size() - at));
      const float scale = quantise_activations(part, q);
      std::transform(part.begin(), part.end(), q.begin(), part.begin(),
                     [scale](float, std::int8_t v) { return scale * static_cast<float>(v); });
    }
  }
  return rounded;
}

double activate(GateActivation activation, double x) {
  switch (activation) {
    case GateActivation::silu:
      return x / (1 + std::exp(-x));
    case GateActivation::gelu:
      return 0.5 * x * (1 + std::erf(x / std::numbers::sqrt2));
    case GateActivation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case GateActivation::relu:
      break;
  }
  return std::max(x, 0.0);
}

// One head's keys or values in a page, as a matrix of rows that are interleaved in words of 32 bits.
class Stored {
 public:
  static Stored keys(const KvLayout& layout, const AttentionSpan& span, std::int64_t head,
                     std::int64_t position) {
    return {layout, span, head, position, true};
  }
  static Stored values(const KvLayout& layout, const AttentionSpan& span, std::int64_t head,
                       std::int64_t position) {
    return {layout, span, layout.kv_heads + head, position, false};
  }

  // The vector [head_dim] of the position.
  std::vector<float> load() const {
    std::vector<float> row(static_cast<std::size_t>(layout_.head_dim));
    for (std::int64_t d = 0; d < layout_.head_dim; ++d) {
      float& value = row[static_cast<std::size_t>(d)];
      if (layout_.type == Compute::f32)
        value = reinterpret_cast<const float*>(data_)[index(d)];
      else if (layout_.type == Compute::bf16)
        value = from_bf16(reinterpret_cast<const std::uint16_t*>(data_)[index(d)]);
      else
        value = scale() * static_cast<float>(reinterpret_cast<const std::int8_t*>(data_)[index(d)]);
    }
    return row;
  }
  void store(std::span<const float> row) {
    std::vector<std::int8_t> q(row.size());
    if (layout_.type == Compute::int8) scale() = quantise_activations(row, q);
    for (std::int64_t d = 0; d < layout_.head_dim; ++d) {
      const float value = row[static_cast<std::size_t>(d)];
      if (layout_.type == Compute::f32)
        reinterpret_cast<float*>(data_)[index(d)] = value;
      else if (layout_.type == Compute::bf16)
        reinterpret_cast<std::uint16_t*>(data_)[index(d)] = to_bf16(value);
      else
        reinterpret_cast<std::int8_t*>(data_)[index(d)] = q[static_cast<std::size_t>(d)];
    }
  }

 private:
  Stored(const KvLayout& layout, const AttentionSpan& span, std::int64_t part, std::int64_t position,
         bool transposed)
      : layout_(layout),
        data_(span.pages[position / page_positions] + part * layout.head_bytes()),
        position_(position % page_positions),
        transposed_(transposed) {}

  std::int64_t index(std::int64_t d) const {
    const std::int64_t row = transposed_ ? d : position_, column = transposed_ ? position_ : d;
    const std::int64_t columns = transposed_ ? page_positions : layout_.padded_dim();
    const std::int64_t in_word = 4 / layout_.element_bytes();
    return (row / in_word * columns + column) * in_word + row % in_word;
  }
  float& scale() const { return reinterpret_cast<float*>(data_ + layout_.head_elements())[position_]; }

  const KvLayout& layout_;
  std::byte* data_;
  std::int64_t position_;
  bool transposed_;
};

float value(ConstRows rows, std::int64_t row, std::int64_t i) {
  return rows.type == Compute::f32 ? rows.row<float>(row)[i] : from_bf16(rows.row<std::uint16_t>(row)[i]);
}

void put(Rows rows, std::int64_t row, std::int64_t i, double value) {
  if (rows.type == Compute::f32)
    rows.row<float>(row)[i] = static_cast<float>(value);
  else
    rows.row<std::uint16_t>(row)[i] = to_bf16(static_cast<float>(value));
}

class ReferenceBackend : public Backend {
 public:
  std::string describe() const override { return "reference (plain loops, one thread)"; }
  bool fast_bf16() const override { return false; }

  std::unique_ptr<PackedLinear> pack(std::span<const LinearPart> parts, Compute compute) const override {
    auto packed = std::make_unique<ReferenceLinear>();
    packed->type = resolved_type(parts, compute);
    packed->in = parts.front().weight->row_elements();
    const auto in = static_cast<std::size_t>(packed->in);
    for (const LinearPart& part : parts) {
      auto weight = decode(*part.weight);
      packed->out += part.weight->rows();
      if (!keeps_integers(*part.weight, packed->type))
        for (std::size_t at = 0; at < weight.size(); at += in)
          round_weights(packed->type, std::span(weight).subspan(at, in));
      packed->weight.insert(packed->weight.end(), weight.begin(), weight.end());
      packed->bias.resize(static_cast<std::size_t>(packed->out));
      if (part.bias != nullptr)
        std::ranges::copy(decode(*part.bias), packed->bias.end() - part.weight->rows());
    }
    packed->bytes = static_cast<std::int64_t>((packed->weight.size() + packed->bias.size()) * sizeof(float));
    return packed;
  }
  std::unique_ptr<PackedLinear> pack_gated(const LinearPart& gate, const LinearPart& up,
                                           Compute compute) const override {
    return pack(std::array{gate, up}, compute);
  }
  std::unique_ptr<PackedLinear> view(std::span<const LinearPart>, bool, Compute, std::span<const std::byte>,
                                     std::shared_ptr<const void>) const override {
    return nullptr;
  }

  void linear(const PackedLinear& packed, std::int64_t rows, ConstRows x, float* y, std::int64_t y_stride,
              bool accumulate) const override {
    const auto& weight = static_cast<const ReferenceLinear&>(packed);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::vector<float> row(static_cast<std::size_t>(weight.in));
      for (std::size_t i = 0; i < row.size(); ++i) row[i] = value(x, r, static_cast<std::int64_t>(i));
      const auto values = rounded_activations(weight.type, row);
      for (std::int64_t o = 0; o < weight.out; ++o) {
        const float* w = weight.weight.data() + o * weight.in;
        double sum = weight.bias[static_cast<std::size_t>(o)];
        for (std::size_t i = 0; i < values.size(); ++i) sum += double{w[i]} * values[i];
        float& result = y[r * y_stride + o];
        result = static_cast<float>(accumulate ? result + sum : sum);
      }
    }
  }

  void linear(const PackedLinear& weight, std::int64_t rows, ConstRows x, Rows y) const override {
    std::vector<float> results(static_cast<std::size_t>(rows * weight.out));
    linear(weight, rows, x, results.data(), weight.out, false);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t o = 0; o < weight.out; ++o)
        put(y, r, o, results[static_cast<std::size_t>(r * weight.out + o)]);
  }

  void summarise(const PackedLinear& weight, std::int64_t rows, ConstRows x, float cap,
                 std::span<const Pick> picks, RowSummary* summaries, float* values) const override {
    std::vector<float> y(static_cast<std::size_t>(rows * weight.out));
    linear(weight, rows, x, y.data(), weight.out, false);
    if (cap > 0) softcap(rows * weight.out, cap, y.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* row = y.data() + r * weight.out;
      const float* best = std::max_element(row, row + weight.out);
      double sum = 0, weighted = 0;
      float second = -std::numeric_limits<float>::infinity();
      for (std::int64_t o = 0; o < weight.out; ++o) {
        const double below = double{row[o]} - *best, e = std::exp(below);
        sum += e;
        weighted += e * below;
        if (row + o != best) second = std::max(second, row[o]);
      }
      summaries[r] = {best - row, *best, *best + std::log(sum), second, std::log(sum) - weighted / sum};
    }
    for (std::size_t i = 0; i < picks.size(); ++i)
      values[i] = y[static_cast<std::size_t>(picks[i].row * weight.out + picks[i].output)];
  }

  void gated_linear(const PackedLinear& weight, std::int64_t rows, ConstRows x, GateActivation activation,
                    const float* addend, Rows y) const override {
    std::vector<float> both(static_cast<std::size_t>(rows * weight.out));
    if (addend != nullptr) std::copy_n(addend, both.size(), both.begin());
    linear(weight, rows, x, both.data(), weight.out, true);
    const std::int64_t half = weight.out / 2;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t i = 0; i < half; ++i) {
        const float* row = both.data() + r * weight.out;
        put(y, r, i, activate(activation, row[i]) * row[half + i]);
      }
  }

  void rms_norm(std::int64_t rows, std::int64_t width, const float* x, const float* gain, float eps,
                Rows y) const override {
    for (std::int64_t r = 0; r < rows; ++r) {
      double squares = 0;
      for (std::int64_t i = 0; i < width; ++i) squares += double{x[r * width + i]} * x[r * width + i];
      const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
      for (std::int64_t i = 0; i < width; ++i) put(y, r, i, x[r * width + i] * factor * gain[i]);
    }
  }

  void norm_heads(std::int64_t rows, std::int64_t heads, std::int64_t width, const float* gain, float eps,
                  float* x, std::int64_t stride) const override {
    for (std::int64_t r = 0; r < rows; ++r)
      rms_norm(heads, width, x + r * stride, gain, eps, float_rows(x + r * stride, width));
  }

  void rotary(std::int64_t rows, std::int64_t heads, std::int64_t head_dim, const std::int64_t* positions,
              const float* table, float* x, std::int64_t stride) const override {
    const std::int64_t half = head_dim / 2;
    for (std::int64_t r = 0; r < rows; ++r) {
      const float* cosines = table + positions[r] * head_dim;
      const float* sines = cosines + half;
      for (std::int64_t h = 0; h < heads; ++h) {
        float* head = x + r * stride + h * head_dim;
        for (std::int64_t i = 0; i < half; ++i) {
          const double a = head[i], b = head[i + half];
          head[i] = static_cast<float>(a * cosines[i] - b * sines[i]);
          head[i + half] = static_cast<float>(b * cosines[i] + a * sines[i]);
        }
      }
    }
  }

  void add(std::int64_t count, const float* x, float* y) const override {
    for (std::int64_t i = 0; i < count; ++i) y[i] += x[i];
  }

  void softcap(std::int64_t count, float c, float* x) const override {
    for (std::int64_t i = 0; i < count; ++i) x[i] = static_cast<float>(c * std::tanh(double{x[i]} / c));
  }

  void store_kv(const KvLayout& layout, std::span<const AttentionSpan> spans, const float* keys,
                const float* values, std::int64_t stride) const override {
    const auto width = static_cast<std::size_t>(layout.head_dim);
    for (const AttentionSpan& span : spans)
      for (std::int64_t t = 0; t < span.count; ++t)
        for (std::int64_t h = 0; h < layout.kv_heads; ++h) {
          const std::int64_t source = (span.row + t) * stride + h * layout.head_dim;
          Stored::keys(layout, span, h, span.first + t).store({keys + source, width});
          Stored::values(layout, span, h, span.first + t).store({values + source, width});
        }
  }

  void attention(const AttentionShape& shape, std::span<const AttentionSpan> spans, const float* queries,
                 const NewKv& fresh, Rows out) const override {
    if (fresh.keys != nullptr) store_kv(shape.cache, spans, fresh.keys, fresh.values, fresh.stride);
    for (const AttentionSpan& span : spans)
      for (std::int64_t t = 0; t < span.count; ++t)
        for (std::int64_t head = 0; head < shape.heads; ++head) {
          const std::int64_t row = span.row + t, dim = shape.cache.head_dim;
          attend(shape, span, span.first + t, head, queries + row * shape.query_stride + head * dim,
                 [&](std::int64_t d, double mixed) { put(out, row, head * dim + d, mixed); });
        }
  }

 private:
  // One query head at one position: softmax(q k) v over the keys that it sees.
  template <typename Put>
  static void attend(const AttentionShape& shape, const AttentionSpan& span, std::int64_t position,
                     std::int64_t head, const float* query, Put put_value) {
    const KvLayout& layout = shape.cache;
    const std::int64_t kv_head = head / (shape.heads / layout.kv_heads);
    const std::int64_t begin = shape.window > 0 ? std::max<std::int64_t>(0, position - shape.window + 1) : 0;
    std::vector<double> scores;
    double largest = -std::numeric_limits<double>::infinity();
    for (std::int64_t p = begin; p <= position; ++p) {
      double dot = 0;
      const auto key = Stored::keys(layout, span, kv_head, p).load();
      for (std::size_t d = 0; d < key.size(); ++d) dot += double{query[d]} * key[d];
      dot *= shape.scale;
      if (shape.softcap > 0) dot = shape.softcap * std::tanh(dot / shape.softcap);
      scores.push_back(dot);
      largest = std::max(largest, dot);
    }
    double sum = 0;
    std::vector<double> mixed(static_cast<std::size_t>(layout.head_dim));
    for (std::int64_t p = begin; p <= position; ++p) {
      const double weight = std::exp(scores[static_cast<std::size_t>(p - begin)] - largest);
      sum += weight;
      const auto value = Stored::values(layout, span, kv_head, p).load();
      for (std::size_t d = 0; d < value.size(); ++d) mixed[d] += weight * value[d];
    }
    for (std::int64_t d = 0; d < layout.head_dim; ++d) put_value(d, mixed[static_cast<std::size_t>(d)] / sum);
  }
};

}  // namespace

std::unique_ptr<Backend> make_reference_backend() { return std::make_unique<ReferenceBackend>(); }

}  // namespace fathom
