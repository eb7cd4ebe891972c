// The one interface between the runtime and a device: a table of operations on buffers of rows. A device (or
// a better CPU implementation) is another Backend, not another engine.
//
// Activations are rows, contiguous, row-major: [rows, width]; float32, but where only products read them they
// may be bf16 (Rows). Weights are packed once, when a model is loaded. Shapes are the caller's promise
// (assertions); nothing from outside reaches this interface unchecked.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include "formats/tensor.h"
#include "kernels/bf16.h"

namespace fathom {

/// How weights are held and products computed; sums of f32 and bf16 are float32. The others: integer weights
/// (kernels/quantise.h) times activations that are rounded to 8 bits when they are used.
/// - int8, int4: a float scale an output channel, and one a row of activations; sums are whole numbers.
/// - int8_groups, int6_groups, int4_groups: a scale, and where a file's type has one a minimum, for each
/// group of 16 or 32
///   inputs, and a scale for each 32 activations. A quantised tensor of no more bits goes over as it is, with
///   the file's own integers and scales.
/// - native: for each matrix the one of f32, bf16 and those with groups that holds what the file has without
///   loss, in the fewest bits.
enum class Compute { f32, bf16, int8, int4, int8_groups, int6_groups, int4_groups, native };

inline bool is_grouped(Compute compute) {
  return compute == Compute::int8_groups || compute == Compute::int6_groups ||
         compute == Compute::int4_groups;
}

/// As `--dtype` has them, in Compute's order.
inline constexpr std::array<const char*, 8> compute_names = {"f32",     "bf16",    "int8",    "int4",
                                                             "int8g32", "int6g32", "int4g32", "native"};
inline const char* compute_name(Compute compute) { return compute_names[static_cast<std::size_t>(compute)]; }

enum class GateActivation { silu, gelu, gelu_tanh, relu };

/// A linear layer's weight [out, in] and its bias [out] or nullptr, of any Tensor type.
struct LinearPart {
  const Tensor* weight = nullptr;
  const Tensor* bias = nullptr;
};

/// What products read: rows of float32, or of values rounded to bf16, where products round them anyway: that
/// halves what goes through the caches between two operations. `Byte` is const where they are only read.
template <typename Byte>
struct RowsOf {
  Compute type = Compute::f32;  ///< f32 or bf16
  std::int64_t width = 0;
  Byte* data = nullptr;  ///< bf16: memory of 31 more rows can be read (products take 32 at a time)

  /// Elements from one row to the next.
  std::int64_t stride() const { return type == Compute::f32 ? width : odd_lines(width); }
  std::int64_t row_bytes() const { return stride() * (type == Compute::f32 ? 4 : 2); }
  /// The rows from `first` on.
  RowsOf from(std::int64_t first) const { return {type, width, data + first * row_bytes()}; }
  template <typename T>
  auto* row(std::int64_t index) const {
    using Element = std::conditional_t<std::is_const_v<Byte>, const T, T>;
    return reinterpret_cast<Element*>(data + index * row_bytes());
  }
  operator RowsOf<const std::byte>() const { return {type, width, data}; }
};
using Rows = RowsOf<std::byte>;
using ConstRows = RowsOf<const std::byte>;

inline Rows float_rows(float* values, std::int64_t width) {
  return {Compute::f32, width, reinterpret_cast<std::byte*>(values)};
}
inline ConstRows float_rows(const float* values, std::int64_t width) {
  return {Compute::f32, width, reinterpret_cast<const std::byte*>(values)};
}

/// One or more linear layers of the same inputs in the layout that the backend chose.
class PackedLinear {
 public:
  virtual ~PackedLinear() = default;
  Compute type = Compute::f32;  ///< never native
  std::int64_t out = 0, in = 0;
  std::int64_t bytes = 0;           ///< memory held
  std::span<const std::byte> data;  ///< what Backend::view makes the same of again; empty: cannot be kept
};

/// Positions that one page of the KV cache holds.
inline constexpr std::int64_t page_positions = 64;

/// Keys and values are cached in pages of 64 consecutive positions of one sequence at one visit. A page
/// holds, for each KV head, the keys transposed [padded_dim, 64], and after all keys the values [64,
/// padded_dim] of each head, in `type`: f32, bf16 or int8. Transposed, the scores of neighbouring keys are
/// neighbours in memory, and neither q k nor p v needs a sum across a vector; padded_dim is head_dim rounded
/// up to 16 (a 512-bit vector), so that neither needs a tail. In bf16, two neighbouring rows (of d in the
/// keys, of positions in the values) are interleaved element by element, in int8 four, as the matrix units of
/// CPUs read them, and padded_dim is a multiple of 32 or 64, the depth of their products. In int8, each
/// position's key and value of a head have a scale (kernels/quantise.h, quantise_activations): float32 [64]
/// behind the head's keys, and behind its values.
struct KvLayout {
  std::int64_t kv_heads = 0, head_dim = 0;
  Compute type = Compute::f32;

  std::int64_t element_bytes() const { return type == Compute::f32 ? 4 : type == Compute::bf16 ? 2 : 1; }
  std::int64_t padded_dim() const {
    const std::int64_t granule = type == Compute::f32 ? 16 : 64 / element_bytes();
    return (head_dim + granule - 1) / granule * granule;
  }
  /// Elements of one head's keys, or of its values, in a page.
  std::int64_t head_elements() const { return padded_dim() * page_positions; }
  /// Bytes from one head's keys to the next one's, and of its values as well.
  std::int64_t head_bytes() const {
    return head_elements() * element_bytes() + (type == Compute::int8 ? page_positions * 4 : 0);
  }
  std::int64_t page_bytes() const { return 2 * kv_heads * head_bytes(); }
};

/// Copies what a page has at one of its 64 positions to one of another page (or the same).
void copy_kv(const KvLayout& layout, const std::byte* from, std::int64_t entry, std::byte* to,
             std::int64_t target);

/// Rows of one sequence at one visit: their positions are [first, first + count), and under causality (and
/// the window) they see the cache's entries [0, first + count).
struct AttentionSpan {
  std::int64_t row = 0;               ///< index of the first row in the batch
  std::int64_t count = 0;             ///< rows
  std::int64_t first = 0;             ///< position of the first row
  std::byte* const* pages = nullptr;  ///< page i holds positions [64 i, 64 i + 64); finite behind the last
};

/// Keys and values of the spans' rows that are not in their pages yet, as Backend::store_kv takes them.
struct NewKv {
  const float* keys = nullptr;  ///< nullptr: there are none
  const float* values = nullptr;
  std::int64_t stride = 0;
};

struct AttentionShape {
  std::int64_t heads = 0;
  std::int64_t query_stride = 0;  ///< floats from one row of queries to the next
  KvLayout cache;
  std::int64_t window = 0;  ///< a token sees itself and the window-1 before it; 0: all before it
  float scale = 1, softcap = 0;
};

/// What is asked of a row of outputs when they are not wanted themselves.
struct RowSummary {
  std::int64_t best = 0;   ///< where the largest is, the first of equals
  float largest = 0;       ///< NaN if any is
  double log_sum_exp = 0;  ///< log(sum(exp(y)))
  float second = 0;        ///< the largest of the others
  double entropy = 0;      ///< of softmax(y), in nats
};

/// Of outputs that are there: the same to the last bit as what Backend::summarise() of the CPU finds.
RowSummary summary_of(std::span<const float> row);

/// One output of one row.
struct Pick {
  std::int64_t row = 0, output = 0;
};

/// Used by one thread at a time; inside it uses the pool of base/threads.h.
class Backend {
 public:
  virtual ~Backend() = default;
  /// One line for people: libraries, instruction set, what computes bf16.
  virtual std::string describe() const = 0;
  /// True if bf16 products are faster than float32 ones on this machine.
  virtual bool fast_bf16() const = 0;

  /// Layers that read the same inputs, one after another by outputs: one product computes them all.
  virtual std::unique_ptr<PackedLinear> pack(std::span<const LinearPart> parts, Compute compute) const = 0;
  /// A gate and an up projection of the same size, for gated_linear.
  virtual std::unique_ptr<PackedLinear> pack_gated(const LinearPart& gate, const LinearPart& up,
                                                   Compute compute) const = 0;
  /// What was packed before from the same parts: `type` and `data` are that PackedLinear's. The data begin at
  /// a cache line, are read where they lie, and kept by `owner`. nullptr if they are not of the size that
  /// such a weight has, or the backend keeps none.
  virtual std::unique_ptr<PackedLinear> view(std::span<const LinearPart> parts, bool gated, Compute type,
                                             std::span<const std::byte> data,
                                             std::shared_ptr<const void> owner) const = 0;
  /// y[rows, out] = x[rows, in] Wᵀ + bias; with `accumulate`, y += that. Rows of y begin `y_stride` floats
  /// apart. A row's result is the same to the last bit whatever rows are beside it and however many threads
  /// there are.
  virtual void linear(const PackedLinear& weight, std::int64_t rows, ConstRows x, float* y,
                      std::int64_t y_stride, bool accumulate) const = 0;
  /// The same to rows that another product reads.
  virtual void linear(const PackedLinear& weight, std::int64_t rows, ConstRows x, Rows y) const = 0;
  /// The product of `linear`, with a soft cap where that is not 0, of which only summaries[rows] are kept,
  /// and values[picks], which are in the order of their rows. A vocabulary's logits, 100 MB for 512 rows of
  /// 49,152, are then never stored.
  virtual void summarise(const PackedLinear& weight, std::int64_t rows, ConstRows x, float softcap,
                         std::span<const Pick> picks, RowSummary* summaries, float* values) const = 0;
  /// y[rows, out / 2] = activation(gate) * up, where [gate, up] = x[rows, in] Wᵀ + bias + addend[rows, out]
  /// (gates first; may be nullptr).
  virtual void gated_linear(const PackedLinear& weight, std::int64_t rows, ConstRows x,
                            GateActivation activation, const float* addend, Rows y) const = 0;

  /// y = x / rms(x) * gain over each row of `width`; `gain` already holds 1 + w where the model wants that.
  /// In place allowed.
  virtual void rms_norm(std::int64_t rows, std::int64_t width, const float* x, const float* gain, float eps,
                        Rows y) const = 0;
  /// The same over each of `heads` parts of `width` in rows that begin `stride` floats apart, in place.
  virtual void norm_heads(std::int64_t rows, std::int64_t heads, std::int64_t width, const float* gain,
                          float eps, float* x, std::int64_t stride) const = 0;
  /// Rotates each head of each row by its position: pairs (i, i + head_dim/2). Row p of `table`
  /// [positions, head_dim] holds position p's head_dim/2 cosines, then its sines. Rows begin `stride` floats
  /// apart. In place.
  virtual void rotary(std::int64_t rows, std::int64_t heads, std::int64_t head_dim,
                      const std::int64_t* positions, const float* table, float* x,
                      std::int64_t stride) const = 0;
  /// y += x.
  virtual void add(std::int64_t count, const float* x, float* y) const = 0;
  /// x = c tanh(x / c).
  virtual void softcap(std::int64_t count, float c, float* x) const = 0;
  /// Writes each span's keys and values [rows, kv_heads * head_dim] into its pages; in both, `stride` floats
  /// lie between the beginnings of two rows.
  virtual void store_kv(const KvLayout& layout, std::span<const AttentionSpan> spans, const float* keys,
                        const float* values, std::int64_t stride) const = 0;
  /// out[rows, heads * head_dim] from queries of the same shape, but `query_stride` apart, and each span's
  /// pages, into which the span's own keys and values are written first if they are `fresh`.
  virtual void attention(const AttentionShape& shape, std::span<const AttentionSpan> spans,
                         const float* queries, const NewKv& fresh, Rows out) const = 0;
};

/// The CPU: kernels for the instruction sets of isa.h.
std::unique_ptr<Backend> make_cpu_backend();

/// Plain loops, one thread, double accumulators: what every other backend is tested against, and what one
/// reads first.
std::unique_ptr<Backend> make_reference_backend();

/// Passes everything on to `backend` and writes a line about each operation to `to`: its shape, its time and
/// the rates of arithmetic and of memory that this makes.
std::unique_ptr<Backend> make_tracing_backend(std::unique_ptr<Backend> backend, std::FILE* to);

}  // namespace fathom
