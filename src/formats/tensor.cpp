#include "formats/tensor.h"

#include <fmt/ranges.h>

#include <array>
#include <bit>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "formats/dequantise.h"
#include "formats/float16.h"

namespace fathom {
namespace {

static_assert(std::endian::native == std::endian::little, "all formats here store little-endian numbers");

struct TypeTraits {
  std::string_view name;
  std::int64_t elements;  // a block
  std::int64_t bytes;
};

// In DType's order. A block of 32 is one or two f16 and 4, 5 or 8 bits an element; see dequantise.cpp.
constexpr std::array<TypeTraits, 16> type_traits = {{{"F32", 1, 4},
                                                     {"F16", 1, 2},
                                                     {"BF16", 1, 2},
                                                     {"F64", 1, 8},
                                                     {"F8_E4M3", 1, 1},
                                                     {"F8_E5M2", 1, 1},
                                                     {"Q4_0", 32, 18},
                                                     {"Q4_1", 32, 20},
                                                     {"Q5_0", 32, 22},
                                                     {"Q5_1", 32, 24},
                                                     {"Q8_0", 32, 34},
                                                     {"Q2_K", 256, 84},
                                                     {"Q3_K", 256, 110},
                                                     {"Q4_K", 256, 144},
                                                     {"Q5_K", 256, 176},
                                                     {"Q6_K", 256, 210}}};

const TypeTraits& traits(DType type) { return type_traits[static_cast<std::size_t>(type)]; }

void check_rows(const Tensor& tensor, std::int64_t first, std::int64_t count) {
  const std::int64_t rows = tensor.rows(), width = tensor.row_elements();
  const std::int64_t block = block_elements(tensor.dtype), heads = tensor.interleaved_heads;
  if (first < 0 || count < 0 || first > rows || count > rows - first)
    fail("a tensor {} has no {} rows from {} on", to_string(tensor.shape), count, first);
  if (width % block != 0)
    fail("rows of {} elements are not whole blocks of {} ({})", width, block, dtype_name(tensor.dtype));
  if (heads < 0 || (heads > 0 && rows % (2 * heads) != 0))
    fail("{} rows cannot be put back from {} interleaved heads: not an even number a head", rows, heads);
}

/// The stored row that holds row `row` of Hugging Face's order: row (h, s, j) of [heads, 2, d/2] is stored at
/// (h, j, s) of [heads, d/2, 2].
std::int64_t stored_row(const Tensor& tensor, std::int64_t row) {
  if (tensor.interleaved_heads == 0) return row;
  const std::int64_t head_rows = tensor.rows() / tensor.interleaved_heads;
  const std::int64_t head = row / head_rows, within = row % head_rows;
  const std::int64_t half = head_rows / 2;
  return head * head_rows + 2 * (within % half) + within / half;
}

/// Where row `row` of Hugging Face's order begins.
const std::byte* row_data(const Tensor& tensor, std::int64_t row) {
  const std::int64_t blocks = tensor.row_elements() / block_elements(tensor.dtype);
  return tensor.data.data() + stored_row(tensor, row) * blocks * block_bytes(tensor.dtype);
}

}  // namespace

std::string_view dtype_name(DType type) { return traits(type).name; }
std::int64_t block_elements(DType type) { return traits(type).elements; }
std::int64_t block_bytes(DType type) { return traits(type).bytes; }

DType written_type(DType type, DType decoded_as) {
  if (is_written(type)) return type;
  if (is_quantised(type)) return decoded_as;
  return type == DType::f64 ? DType::f32 : DType::bf16;
}

std::int64_t element_count(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return count;
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

void decode_rows(const Tensor& tensor, std::int64_t first, std::int64_t count, std::span<float> out) {
  const std::int64_t width = tensor.row_elements();
  check_rows(tensor, first, count);
  if (std::ssize(out) != count * width) {
    fail("{} rows from {} on of a tensor {} do not fit {} values", count, first, to_string(tensor.shape),
         out.size());
  }
  const std::int64_t blocks = width / block_elements(tensor.dtype);
  if (tensor.interleaved_heads == 0) {
    dequantise(tensor.dtype, row_data(tensor, first), count * blocks, out.data());
  } else {
    for (std::int64_t i = 0; i < count; ++i)
      dequantise(tensor.dtype, row_data(tensor, first + i), blocks, out.data() + i * width);
  }
  if (tensor.decoded_offset != 0) {
    for (float& value : out) value += tensor.decoded_offset;
  }
}

void unpack_row(const Tensor& tensor, std::int64_t row, std::int8_t* q, float* scales, float* minima) {
  check_rows(tensor, row, 1);
  const std::int64_t blocks = tensor.row_elements() / block_elements(tensor.dtype);
  unpack(tensor.dtype, row_data(tensor, row), blocks, q, scales, minima);
}

void unpack_row(const Tensor& tensor, std::int64_t row, std::int8_t* q, SuperScales* scales) {
  check_rows(tensor, row, 1);
  unpack(tensor.dtype, row_data(tensor, row), tensor.row_elements() / block_elements(tensor.dtype), q,
         scales);
}

std::vector<float> decode(const Tensor& tensor) {
  std::vector<float> values(static_cast<std::size_t>(tensor.elements()));
  decode_rows(tensor, 0, tensor.rows(), values);
  return values;
}

void encode(DType dtype, std::span<const float> values, std::span<std::byte> out) {
  if (!is_written(dtype) || std::ssize(out) != std::ssize(values) * block_bytes(dtype)) {
    fail("{} values cannot be stored as {} in {} bytes", values.size(), dtype_name(dtype), out.size());
  }
  if (values.empty()) return;
  if (dtype == DType::f32) {
    std::memcpy(out.data(), values.data(), out.size());
    return;
  }
  const auto each = [&](auto&& convert) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::uint16_t half = convert(values[i]);
      std::memcpy(out.data() + i * sizeof half, &half, sizeof half);
    }
  };
  if (dtype == DType::f16) {
    each([](float value) { return to_f16(value); });
  } else {
    each([](float value) { return to_bf16(value); });
  }
}

Tensor make_tensor(DType dtype, Shape shape, std::span<const float> values) {
  if (std::ssize(values) != element_count(shape)) {
    fail("{} values do not fill a tensor {}", values.size(), to_string(shape));
  }
  const std::size_t size = values.size() * static_cast<std::size_t>(block_bytes(dtype));
  const std::shared_ptr<std::byte[]> bytes = std::make_shared_for_overwrite<std::byte[]>(size);
  const std::span<std::byte> data(bytes.get(), size);
  encode(dtype, values, data);
  return {.dtype = dtype, .shape = std::move(shape), .data = data, .owner = bytes};
}

}  // namespace fathom
