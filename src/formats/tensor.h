// A tensor as it lies in a file: type, shape and bytes, usually a view into a mapping; decoded to float only
// where asked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fathom {

/// Element types that are read. The first three are also written; those from q4_0 on are blocks of whole
/// numbers with scales.
enum class DType {
  f32,
  f16,
  bf16,
  f64,
  f8_e4m3,
  f8_e5m2,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k
};

std::string_view dtype_name(DType type);  ///< "F32", "Q4_K", ...
std::int64_t block_elements(
    DType type);  ///< elements that share one block (1, 32 or 256); rows are whole blocks
std::int64_t block_bytes(DType type);  ///< bytes of one block
inline bool is_written(DType type) { return type <= DType::bf16; }
inline bool is_quantised(DType type) { return type >= DType::q4_0; }

/// The type that a file gets for a tensor of this one: f32, f16 and bf16 stay, f64 becomes f32, the 8-bit
/// floats bf16, which holds each of them, and quantised types what they are to be decoded to.
DType written_type(DType type, DType decoded_as);

using Shape = std::vector<std::int64_t>;
std::int64_t element_count(const Shape& shape);
std::string to_string(const Shape& shape);  ///< "[576, 1536]"

/// Copies are cheap: the bytes are shared. Row-major, outermost dimension first ([out, in] for a linear
/// layer).
struct Tensor {
  DType dtype = DType::f32;
  Shape shape;
  std::span<const std::byte> data;
  std::shared_ptr<const void> owner;  ///< keeps `data` alive

  /// GGUF files of the Llama family store the rows of q and k so that rotary pairs are neighbours (2i, 2i+1)
  /// instead of halves (i, i + d/2). With this set to the number of heads, decode_rows puts them back in
  /// Hugging Face's order.
  std::int64_t interleaved_heads = 0;
  /// Added to each element when decoded: GGUF stores Gemma's norm gains as 1 + w, Hugging Face as w (then -1
  /// here).
  float decoded_offset = 0;

  std::int64_t rows() const { return shape.empty() ? 1 : shape[0]; }
  std::int64_t row_elements() const {
    return shape.empty() ? 1 : element_count(shape) / (shape[0] > 0 ? shape[0] : 1);
  }
  std::int64_t elements() const { return element_count(shape); }
  /// True if `data` can be written as it is (a type that is written and no decoding to apply).
  bool is_plain() const { return is_written(dtype) && interleaved_heads == 0 && decoded_offset == 0; }
};

/// Decodes rows [first, first + count) into `out` (count * row_elements() floats): exactly, but for f64,
/// which is rounded to nearest even. Throws Error when the rows are not there, are not whole blocks, or do
/// not divide into `interleaved_heads`.
void decode_rows(const Tensor& tensor, std::int64_t first, std::int64_t count, std::span<float> out);

/// A row of a quantised tensor as stored (unpack in dequantise.h): row_elements() whole numbers and the
/// scales and minima of its groups. Throws Error as decode_rows does.
void unpack_row(const Tensor& tensor, std::int64_t row, std::int8_t* q, float* scales, float* minima);
struct SuperScales;
void unpack_row(const Tensor& tensor, std::int64_t row, std::int8_t* q, SuperScales* scales);

/// The whole tensor as float, row-major.
std::vector<float> decode(const Tensor& tensor);

/// Stores `values` as f32, f16 or bf16 (rounded to nearest even; NaN stays NaN) in `out`, which has exactly
/// their size.
void encode(DType dtype, std::span<const float> values, std::span<std::byte> out);

/// A new tensor that owns its bytes, of type f32, f16 or bf16 (rounded to nearest even). `values` has
/// element_count(shape).
Tensor make_tensor(DType dtype, Shape shape, std::span<const float> values);

}  // namespace fathom
