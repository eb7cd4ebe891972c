#include "formats/gguf_write.h"

#include <algorithm>
#include <limits>
#include <set>
#include <type_traits>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/threads.h"
#include "formats/finite.h"
#include "formats/gguf_types.h"
#include "formats/quantise.h"

namespace fathom {
namespace {

constexpr std::uint32_t version = 3;
constexpr std::int64_t megabyte = 1'000'000;

std::uint64_t aligned(std::uint64_t position) {
  return (position + default_gguf_alignment - 1) / default_gguf_alignment * default_gguf_alignment;
}

template <typename Number>
bool fits(std::int64_t value) {
  return value >= std::numeric_limits<Number>::min() && value <= std::numeric_limits<Number>::max();
}

/// What stands before the data.
class Header {
 public:
  template <typename Number>
  Header& number(Number value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Header& text(std::string_view value) {
    number<std::uint64_t>(value.size());
    bytes_ += value;
    return *this;
  }

  void value(const GgufValue& value) {
    std::visit([this](const auto& of_type) { put(of_type); }, value);
  }

  /// Filled up to where the data begin.
  const std::string& finish() {
    bytes_.resize(aligned(bytes_.size()));
    return bytes_;
  }

 private:
  using Type = GgufValueType;

  void type(Type type) { number(static_cast<std::uint32_t>(type)); }

  void put(bool value) {
    type(Type::boolean);
    number<std::uint8_t>(value ? 1 : 0);
  }
  void put(std::int64_t value) {
    if (fits<std::uint32_t>(value)) {
      type(Type::u32);
      number(static_cast<std::uint32_t>(value));
    } else if (fits<std::int32_t>(value)) {
      type(Type::i32);
      number(static_cast<std::int32_t>(value));
    } else {
      type(Type::i64);
      number(value);
    }
  }
  void put(std::uint64_t value) {
    type(Type::u64);
    number(value);
  }
  void put(double value) {
    type(Type::f32);
    number(static_cast<float>(value));
  }
  void put(const std::string& value) {
    type(Type::string);
    text(value);
  }

  void array(Type element, std::size_t size) {
    type(Type::array);
    type(element);
    number<std::uint64_t>(size);
  }
  void put(const std::vector<std::int64_t>& values) {
    const bool narrow = std::ranges::all_of(values, fits<std::int32_t>);
    array(narrow ? Type::i32 : Type::i64, values.size());
    for (const std::int64_t value : values) {
      if (narrow) {
        number(static_cast<std::int32_t>(value));
      } else {
        number(value);
      }
    }
  }
  void put(const std::vector<double>& values) {
    array(Type::f32, values.size());
    for (const double value : values) number(static_cast<float>(value));
  }
  void put(const std::vector<std::string>& values) {
    array(Type::string, values.size());
    for (const std::string& value : values) text(value);
  }

  std::string bytes_;
};

std::uint32_t type_id(DType dtype) {
  const auto* const found = std::ranges::find_if(
      gguf_tensor_types, [&](const GgufTensorType& type) { return type.dtype == dtype; });
  if (found == std::end(gguf_tensor_types)) fail("GGUF files have no {}", dtype_name(dtype));
  return found->id;
}

std::int64_t written_bytes(const GgufTensor& tensor) {
  const std::int64_t block = block_elements(tensor.dtype);
  if (tensor.tensor.row_elements() % block != 0)
    fail("tensor '{}' has rows of {} elements, which are no whole blocks of {} ({})", tensor.name,
         tensor.tensor.row_elements(), block, dtype_name(tensor.dtype));
  return tensor.tensor.elements() / block * block_bytes(tensor.dtype);
}

/// The tensors' bytes on their way into the file.
class DataWriter {
 public:
  DataWriter(AtomicFile& out, const std::filesystem::path& file, std::int64_t total)
      : out_(out), file_(file.filename().string()), progress_("writing", total / megabyte, "MB") {}

  void write(const GgufTensor& tensor) {
    const Tensor& source = tensor.tensor;
    const bool in_order = source.interleaved_heads == tensor.interleaved_heads;
    if (tensor.dtype == source.dtype && in_order && source.decoded_offset == 0) {
      copy(tensor);
    } else {
      encode_rows(tensor);
    }
    const std::string filling(aligned(written_) - written_, '\0');
    out_.write(filling);
    written_ += filling.size();
  }

 private:
  void copy(const GgufTensor& tensor) {
    constexpr std::size_t piece = std::size_t{1} << 20;
    for (auto rest = tensor.tensor.data; !rest.empty(); rest = rest.subspan(std::min(piece, rest.size()))) {
      const auto bytes = rest.first(std::min(piece, rest.size()));
      if (is_written(tensor.dtype)) check(tensor, tensor.dtype, bytes);
      put(bytes);
    }
  }

  void encode_rows(const GgufTensor& tensor) {
    const Tensor& source = tensor.tensor;
    const std::int64_t width = source.row_elements(), row_bytes = written_bytes(tensor) / source.rows();
    const std::int64_t step = std::max<std::int64_t>((std::int64_t{1} << 18) / width, 1);
    std::vector<float> values;
    std::vector<std::byte> encoded;
    for (std::int64_t first = 0; first < source.rows(); first += step) {
      const std::int64_t count = std::min(step, source.rows() - first);
      values.resize(static_cast<std::size_t>(count * width));
      encoded.resize(static_cast<std::size_t>(count * row_bytes));
      parallel_for(count, [&](std::int64_t i) {
        const std::span<float> in(values.data() + i * width, static_cast<std::size_t>(width));
        decode_rows(source, row_written_at(tensor, first + i), 1, in);
        encode_row(tensor, in, {encoded.data() + i * row_bytes, static_cast<std::size_t>(row_bytes)});
      });
      put(encoded);
    }
  }

  void encode_row(const GgufTensor& tensor, std::span<const float> in, std::span<std::byte> out) const {
    if (is_written(tensor.dtype)) {
      encode(tensor.dtype, in, out);
      return check(tensor, tensor.dtype, out);
    }
    check(tensor, DType::f32, std::as_bytes(in));
    const std::int64_t blocks = std::ssize(in) / block_elements(tensor.dtype);
    if (!quantise(tensor.dtype, in.data(), blocks, out.data())) refuse(tensor);
  }

  /// The row, in Hugging Face's order, that is written as the file's row `row`.
  static std::int64_t row_written_at(const GgufTensor& tensor, std::int64_t row) {
    if (tensor.interleaved_heads == 0) return row;
    const std::int64_t head_rows = tensor.tensor.rows() / tensor.interleaved_heads;
    const std::int64_t within = row % head_rows;
    return row - within + within % 2 * (head_rows / 2) + within / 2;
  }

  void check(const GgufTensor& tensor, DType type, std::span<const std::byte> values) const {
    if (first_not_finite(type, values)) refuse(tensor);
  }

  [[noreturn]] void refuse(const GgufTensor& tensor) const {
    fail(
        "{}: tensor '{}' would hold a value that is no finite number as {}: it is not written. The model is "
        "damaged, or {} is too narrow for it: take F32 or BF16",
        file_, tensor.name, dtype_name(tensor.dtype), dtype_name(tensor.dtype));
  }

  void put(std::span<const std::byte> bytes) {
    check_interrupt();
    out_.write(bytes);
    const auto before = static_cast<std::int64_t>(written_) / megabyte;
    written_ += bytes.size();
    progress_.advance(static_cast<std::int64_t>(written_) / megabyte - before);
  }

  AtomicFile& out_;
  std::string file_;
  Progress progress_;
  std::uint64_t written_ = 0;
};

}  // namespace

void write_gguf(const std::filesystem::path& file, const GgufMetadata& metadata,
                const std::vector<GgufTensor>& tensors) {
  Header header;
  for (const char c : gguf_magic) header.number(c);
  header.number(version).number<std::uint64_t>(tensors.size()).number<std::uint64_t>(metadata.size());
  for (const auto& [key, value] : metadata) header.text(key).value(value);
  std::set<std::string_view> names;
  std::uint64_t offset = 0;
  for (const GgufTensor& tensor : tensors) {
    if (!names.insert(tensor.name).second) fail("{}: two tensors are named '{}'", file.string(), tensor.name);
    const Shape& shape = tensor.tensor.shape;
    header.text(tensor.name).number(static_cast<std::uint32_t>(shape.size()));
    for (auto size = shape.rbegin(); size != shape.rend(); ++size) header.number(*size);
    header.number(type_id(tensor.dtype)).number(offset);
    offset = aligned(offset + static_cast<std::uint64_t>(written_bytes(tensor)));
  }
  AtomicFile out(file);
  out.write(header.finish());
  DataWriter data(out, file, static_cast<std::int64_t>(offset));
  for (const GgufTensor& tensor : tensors) data.write(tensor);
  check_interrupt();
  out.commit();
}

}  // namespace fathom
