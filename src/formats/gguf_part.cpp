#include "formats/gguf_part.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "base/error.h"
#include "base/file.h"
#include "formats/gguf_types.h"

namespace fathom {
namespace {

constexpr std::int64_t most_alignment = 1 << 16;
constexpr std::uint32_t most_dimensions = 4;      // ggml's
constexpr std::uint64_t longest_name = 1U << 16;  // llama.cpp's, of a metadata key

/// Reads forward through the file; no read, count or allocation goes beyond its end.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, std::string where) : bytes_(bytes), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  std::uint64_t position() const { return position_; }

  template <typename Number>
  Number read(std::string_view what) {
    Number value{};
    std::memcpy(&value, take(sizeof value, what).data(), sizeof value);
    return value;
  }

  /// A 64-bit count of things that take at least `least_bytes` each in what is left of the file.
  std::uint64_t read_count(std::uint64_t least_bytes, std::string_view what) {
    const auto count = read<std::uint64_t>(what);
    if (count > remaining() / least_bytes) {
      fail("{}: {} is {}, more than the {} bytes behind it can hold: the file is torn or damaged", where_,
           what, count, remaining());
    }
    return count;
  }

  std::string read_string(std::string_view what) {
    const std::span<const std::byte> text = take(read_count(1, what), what);
    return {reinterpret_cast<const char*>(text.data()), text.size()};
  }

  std::string read_name(std::string_view what) {
    std::string name = read_string(what);
    if (name.empty() || name.size() > longest_name) {
      fail("{}: {} has {} bytes, expected 1 to {}", where_, what, name.size(), longest_name);
    }
    return name;
  }

 private:
  std::uint64_t remaining() const { return bytes_.size() - position_; }

  std::span<const std::byte> take(std::uint64_t size, std::string_view what) {
    if (size > remaining()) {
      fail("{}: the file ends at byte {}, within {}: it is torn, fetch it again", where_, bytes_.size(),
           what);
    }
    const std::span<const std::byte> taken = bytes_.subspan(position_, size);
    position_ += size;
    return taken;
  }

  std::span<const std::byte> bytes_;
  std::string where_;
  std::uint64_t position_ = 0;
};

bool read_boolean(Cursor& in, const std::string& what) {
  const auto value = in.read<std::uint8_t>(what);
  if (value > 1) fail("{}: {} is {}, expected 0 or 1 for a boolean", in.where(), what, value);
  return value == 1;
}

template <typename Number>
GgufValue read_number(Cursor& in, const std::string& what) {
  const auto value = in.read<Number>(what);
  if constexpr (std::is_floating_point_v<Number>) {
    return static_cast<double>(value);
  } else if constexpr (std::is_same_v<Number, std::uint64_t>) {
    if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return value;
  }
  return static_cast<std::int64_t>(value);
}

template <typename Element, typename Read>
std::vector<Element> read_elements(Cursor& in, std::uint64_t least_bytes, const std::string& what,
                                   Read&& read) {
  std::vector<Element> elements(in.read_count(least_bytes, what));
  for (Element& element : elements) element = read();
  return elements;
}

template <typename Number>
GgufValue read_numbers(Cursor& in, const std::string& what) {
  using Element = std::conditional_t<std::is_floating_point_v<Number>, double, std::int64_t>;
  return read_elements<Element>(in, sizeof(Number), what, [&] {
    const auto value = in.read<Number>(what);
    if (std::is_same_v<Number, std::uint64_t> && static_cast<std::int64_t>(value) < 0) {
      fail("{}: {} holds a value above 2^63 - 1", in.where(), what);
    }
    return static_cast<Element>(value);
  });
}

GgufValue read_array(Cursor& in, const std::string& what) {
  const auto type = in.read<std::uint32_t>(what);
  switch (static_cast<GgufValueType>(type)) {
    case GgufValueType::u8:
      return read_numbers<std::uint8_t>(in, what);
    case GgufValueType::i8:
      return read_numbers<std::int8_t>(in, what);
    case GgufValueType::u16:
      return read_numbers<std::uint16_t>(in, what);
    case GgufValueType::i16:
      return read_numbers<std::int16_t>(in, what);
    case GgufValueType::u32:
      return read_numbers<std::uint32_t>(in, what);
    case GgufValueType::i32:
      return read_numbers<std::int32_t>(in, what);
    case GgufValueType::u64:
      return read_numbers<std::uint64_t>(in, what);
    case GgufValueType::i64:
      return read_numbers<std::int64_t>(in, what);
    case GgufValueType::f32:
      return read_numbers<float>(in, what);
    case GgufValueType::f64:
      return read_numbers<double>(in, what);
    case GgufValueType::boolean:
      return read_elements<std::int64_t>(in, 1, what, [&] { return read_boolean(in, what) ? 1 : 0; });
    case GgufValueType::string:
      return read_elements<std::string>(in, sizeof(std::uint64_t), what,
                                        [&] { return in.read_string(what); });
    case GgufValueType::array:
      fail("{}: {} is an array of arrays, which no model file needs", in.where(), what);
  }
  fail("{}: {} is an array of unknown type {}", in.where(), what, type);
}

GgufValue read_value(Cursor& in, const std::string& what) {
  const auto type = in.read<std::uint32_t>(what);
  switch (static_cast<GgufValueType>(type)) {
    case GgufValueType::u8:
      return read_number<std::uint8_t>(in, what);
    case GgufValueType::i8:
      return read_number<std::int8_t>(in, what);
    case GgufValueType::u16:
      return read_number<std::uint16_t>(in, what);
    case GgufValueType::i16:
      return read_number<std::int16_t>(in, what);
    case GgufValueType::u32:
      return read_number<std::uint32_t>(in, what);
    case GgufValueType::i32:
      return read_number<std::int32_t>(in, what);
    case GgufValueType::u64:
      return read_number<std::uint64_t>(in, what);
    case GgufValueType::i64:
      return read_number<std::int64_t>(in, what);
    case GgufValueType::f32:
      return read_number<float>(in, what);
    case GgufValueType::f64:
      return read_number<double>(in, what);
    case GgufValueType::boolean:
      return read_boolean(in, what);
    case GgufValueType::string:
      return in.read_string(what);
    case GgufValueType::array:
      return read_array(in, what);
  }
  fail("{}: {} has unknown type {}", in.where(), what, type);
}

/// The entry of a tensor in the file's table, checked in itself.
struct Entry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::uint64_t offset = 0, bytes = 0;  // in the data
};

Entry read_entry(Cursor& in) {
  Entry entry;
  entry.name = in.read_name("a tensor's name");
  const std::string what = "tensor " + gguf_shown(entry.name);
  const auto dimensions = in.read<std::uint32_t>(what);
  if (dimensions < 1 || dimensions > most_dimensions) {
    fail("{}: {} has {} dimensions, expected 1 to {}", in.where(), what, dimensions, most_dimensions);
  }
  std::int64_t elements = 1;
  for (std::uint32_t i = 0; i < dimensions; ++i) {
    const auto size = in.read<std::int64_t>(what);
    if (size < 1 || __builtin_mul_overflow(elements, size, &elements)) {
      fail("{}: {} has dimension {} of size {}: impossible", in.where(), what, i, size);
    }
    entry.shape.insert(entry.shape.begin(), size);  // the file has the innermost first
  }
  const auto id = in.read<std::uint32_t>(what);
  const auto* const type = std::find_if(std::begin(gguf_tensor_types), std::end(gguf_tensor_types),
                                        [&](const GgufTensorType& t) { return t.id == id; });
  if (type == std::end(gguf_tensor_types) || !type->dtype) {
    fail(
        "{}: {} is of type {}, which is not supported; convert the model to F16, BF16, Q4_0, Q4_1, Q5_0, "
        "Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K or Q6_K",
        in.where(), what, type == std::end(gguf_tensor_types) ? std::to_string(id) : std::string(type->name));
  }
  entry.dtype = *type->dtype;
  const std::int64_t block = block_elements(entry.dtype);
  if (entry.shape.back() % block != 0 || (entry.shape.size() == 1 && is_quantised(entry.dtype))) {
    fail("{}: {} has shape {}, but {} is for matrices with rows of a multiple of {}", in.where(), what,
         to_string(entry.shape), type->name, block);
  }
  entry.offset = in.read<std::uint64_t>(what);
  std::int64_t bytes = 0;
  if (__builtin_mul_overflow(elements / block, block_bytes(entry.dtype), &bytes)) {
    fail("{}: {} has shape {}: impossible", in.where(), what, to_string(entry.shape));
  }
  entry.bytes = static_cast<std::uint64_t>(bytes);
  return entry;
}

void read_version(Cursor& in) {
  const std::uint32_t found_magic = in.read<std::uint32_t>("the magic number");
  if (std::memcmp(&found_magic, gguf_magic.data(), gguf_magic.size()) != 0)
    fail("{}: not a GGUF file", in.where());
  const auto version = in.read<std::uint32_t>("the version");
  if (version == 2 || version == 3) return;
  // Both orders of bytes have the same magic; small versions tell them apart.
  if ((version & 0xffffU) == 0) {
    fail("{}: a big-endian GGUF file, which is not supported; convert it with gguf_convert_endian.py",
         in.where());
  }
  fail("{}: GGUF version {}, expected 2 or 3; convert the model with a current llama.cpp", in.where(),
       version);
}

/// general.alignment, of the data and of each tensor in them.
std::uint64_t alignment_of(const GgufPart& part, const std::string& where) {
  const auto found = part.metadata.find("general.alignment");
  if (found == part.metadata.end()) return default_gguf_alignment;
  const auto* alignment = std::get_if<std::int64_t>(&found->second);
  if (alignment == nullptr || *alignment < 1 || *alignment > most_alignment ||
      !std::has_single_bit(static_cast<std::uint64_t>(*alignment)))
    fail("{}: metadata \"general.alignment\" is {}, expected a power of two up to {}", where,
         alignment == nullptr ? "of another type" : std::to_string(*alignment), most_alignment);
  return static_cast<std::uint64_t>(*alignment);
}

}  // namespace

std::string gguf_shown(std::string_view text) {
  const nlohmann::json quoted = std::string(text.substr(0, 60)) + (text.size() > 60 ? "..." : "");
  return quoted.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

GgufPart read_gguf_part(const std::filesystem::path& path) {
  GgufPart part;
  const MappedFile file(path);
  Cursor in(file.bytes(), path.string());
  read_version(in);
  // The least that a tensor takes: name (8 + 1), dimensions (4 + 8), type (4), offset (8); that a key takes:
  // name (8 + 1), type (4), value (1).
  const std::uint64_t tensor_count = in.read_count(33, "the number of tensors");
  const std::uint64_t key_count = in.read_count(14, "the number of metadata keys");
  for (std::uint64_t i = 0; i < key_count; ++i) {
    const std::string key = in.read_name("a metadata key");
    const std::string what = "metadata " + gguf_shown(key);
    if (!part.metadata.emplace(key, read_value(in, what)).second)
      fail("{}: {} occurs twice", in.where(), what);
  }

  std::vector<Entry> entries;
  entries.reserve(tensor_count);
  for (std::uint64_t i = 0; i < tensor_count; ++i) entries.push_back(read_entry(in));

  const std::uint64_t alignment = alignment_of(part, in.where());
  const std::uint64_t data_begin = (in.position() + alignment - 1) / alignment * alignment;
  const std::span<const std::byte> data =
      file.bytes().subspan(std::min<std::uint64_t>(data_begin, file.bytes().size()));

  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.offset < b.offset; });
  std::uint64_t reached = 0;
  for (Entry& entry : entries) {
    const std::string what = "tensor " + gguf_shown(entry.name);
    if (entry.offset % alignment != 0 || entry.offset < reached) {
      fail("{}: {} has offset {}, expected a multiple of {} from {} on, where the one before it ends",
           in.where(), what, entry.offset, alignment, reached);
    }
    if (entry.offset > data.size() || entry.bytes > data.size() - entry.offset) {
      fail("{}: {} takes {} bytes from {} on, but the file has {} bytes of data: it is torn, fetch it again",
           in.where(), what, entry.bytes, entry.offset, data.size());
    }
    reached = entry.offset + entry.bytes;
    const bool added =
        part.tensors
            .emplace(std::move(entry.name), Tensor{.dtype = entry.dtype,
                                                   .shape = std::move(entry.shape),
                                                   .data = data.subspan(entry.offset, entry.bytes),
                                                   .owner = file.owner()})
            .second;
    if (!added) fail("{}: {} occurs twice", in.where(), what);
  }
  return part;
}

}  // namespace fathom
