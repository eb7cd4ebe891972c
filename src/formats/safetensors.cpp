#include "formats/safetensors.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace fathom {
namespace {

using nlohmann::json;  // sorted keys: a hostile header of many keys costs n log n, not n * n

constexpr std::uint64_t length_bytes = 8;
constexpr std::uint64_t longest_header = 100'000'000;  // the limit of Hugging Face's own reader
constexpr std::uint64_t longest_index = 100'000'000;
constexpr int most_dimensions = 8;

/// A type that a file may hold, and how Fathom computes with it (nothing: the tensor is left out).
struct FileType {
  std::string_view name;
  std::int64_t bits;
  std::optional<DType> computed;
};

constexpr FileType file_types[] = {{"F32", 32, DType::f32},
                                   {"F16", 16, DType::f16},
                                   {"BF16", 16, DType::bf16},
                                   {"F64", 64, DType::f64},
                                   {"F8_E4M3", 8, DType::f8_e4m3},
                                   {"F8_E5M2", 8, DType::f8_e5m2},
                                   {"I64", 64, {}},
                                   {"I32", 32, {}},
                                   {"I16", 16, {}},
                                   {"I8", 8, {}},
                                   {"U64", 64, {}},
                                   {"U32", 32, {}},
                                   {"U16", 16, {}},
                                   {"U8", 8, {}},
                                   {"BOOL", 8, {}},
                                   {"F8_E8M0", 8, {}},
                                   {"F6_E2M3", 6, {}},
                                   {"F6_E3M2", 6, {}},
                                   {"F4", 4, {}},
                                   {"C64", 64, {}}};

std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() > 60 ? text.substr(0, 57) + "..." : text;
}

/// A first pass over a header or an index, which are objects of objects of short lists. It refuses what a
/// parsed document would lose (a key that occurs twice) or be swamped by (deep nesting, long lists).
class FlatnessCheck : public nlohmann::json_sax<json> {
 public:
  explicit FlatnessCheck(const std::string& where) : where_(where) {}

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(std::size_t) override { return open(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    values_ = 0;
    if (!keys_[depth_ - 1].insert(name).second) fail("{}: {} occurs twice", where_, shown(name));
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const json::exception&) override {
    fail("{}: not valid JSON from byte {} on", where_, position);
  }

 private:
  static constexpr std::size_t deepest = 3;

  bool open() {
    if (depth_ == deepest) fail("{}: nested deeper than {} levels", where_, deepest);
    keys_[depth_++].clear();
    return true;
  }
  bool close() { return depth_-- > 0; }
  bool value() {
    if (++values_ > most_dimensions) fail("{}: a list of more than {} values", where_, most_dimensions);
    return true;
  }

  const std::string& where_;
  std::size_t depth_ = 0;
  int values_ = 0;                       // since the last key
  std::set<std::string> keys_[deepest];  // of the objects that are open
};

json parse_flat(std::string_view text, const std::string& where) {
  FlatnessCheck check(where);
  json::sax_parse(text, &check);
  json parsed = json::parse(text);
  if (!parsed.is_object()) fail("{}: {}, expected an object", where, shown(parsed));
  return parsed;
}

/// One entry of the header, checked in itself.
struct Entry {
  std::string name;
  const FileType* type = nullptr;
  Shape shape;
  std::uint64_t begin = 0, end = 0;  // in the data
};

Entry read_entry(const std::string& name, const json& value, const std::string& where) {
  const auto wrong = [&](std::string_view field, const json& found, std::string_view expected) {
    fail("{}: tensor {}: {} is {}, expected {}", where, shown(name), field, shown(found), expected);
  };
  if (!value.is_object()) wrong("its entry", value, "an object with dtype, shape and data_offsets");
  const auto get = [&](const char* field) -> const json& {
    const auto found = value.find(field);
    if (found == value.end()) fail("{}: tensor {}: {} is missing", where, shown(name), field);
    return *found;
  };
  Entry entry;
  entry.name = name;

  const json& dtype = get("dtype");
  const auto* const type = std::find_if(std::begin(file_types), std::end(file_types), [&](const FileType& t) {
    return dtype.is_string() && dtype.get_ref<const std::string&>() == t.name;
  });
  if (type == std::end(file_types)) wrong("dtype", dtype, "a type of safetensors, such as \"BF16\"");
  entry.type = type;

  const json& shape = get("shape");
  if (!shape.is_array()) wrong("shape", shape, "a list of sizes");
  std::int64_t bits = type->bits;
  for (const json& size : shape) {
    if (!size.is_number_unsigned() || size.get<std::uint64_t>() > std::uint64_t{1} << 62 ||
        __builtin_mul_overflow(bits, size.get<std::int64_t>(), &bits)) {
      wrong("shape", shape, "sizes whose product is a possible size in memory");
    }
    entry.shape.push_back(size.get<std::int64_t>());
  }

  const json& offsets = get("data_offsets");
  if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned() ||
      !offsets[1].is_number_unsigned() || offsets[0].get<std::uint64_t>() > offsets[1].get<std::uint64_t>()) {
    wrong("data_offsets", offsets, "[begin, end] in bytes");
  }
  entry.begin = offsets[0].get<std::uint64_t>();
  entry.end = offsets[1].get<std::uint64_t>();
  if (bits % 8 != 0 || entry.end - entry.begin != static_cast<std::uint64_t>(bits / 8)) {
    fail("{}: tensor {}: data_offsets {} hold {} bytes, but {} {} takes {}", where, shown(name),
         shown(offsets), entry.end - entry.begin, type->name, to_string(entry.shape), (bits + 7) / 8);
  }
  return entry;
}

SafetensorsContent read_content(const std::filesystem::path& path) {
  const MappedFile file(path);
  const std::string where = path.string();
  const std::span<const std::byte> bytes = file.bytes();
  if (bytes.size() < length_bytes) {
    fail("{}: {} bytes, too short for a safetensors file: is it a torn download?", where, bytes.size());
  }
  std::uint64_t header_length = 0;
  std::memcpy(&header_length, bytes.data(), length_bytes);
  if (header_length > bytes.size() - length_bytes || header_length > longest_header) {
    fail("{}: header length is {}, but the file has {} bytes: it is torn, or not a safetensors file", where,
         header_length, bytes.size());
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + length_bytes, header_length);
  const std::span<const std::byte> data = bytes.subspan(length_bytes + header_length);

  std::vector<Entry> entries;
  const json parsed = parse_flat(header, where + ": header");
  for (const auto& [name, value] : parsed.items()) {
    if (name != "__metadata__") entries.push_back(read_entry(name, value, where));
  }
  // The data of the tensors lie one behind the other without gaps (the format demands it), so one walk in the
  // order of offsets finds overlaps, holes and a file that ends too early.
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  std::uint64_t reached = 0;
  SafetensorsContent content;
  for (Entry& entry : entries) {
    if (entry.begin != reached) {
      fail("{}: tensor {}: its data begin at {}, expected {}, where those before it end", where,
           shown(entry.name), entry.begin, reached);
    }
    if (entry.end > data.size()) {
      fail(
          "{}: tensor {}: its data end at {}, but the file has only {} bytes of data: it is torn, fetch it "
          "again",
          where, shown(entry.name), entry.end, data.size());
    }
    reached = entry.end;
    if (!entry.type->computed) {
      content.left_out.emplace(
          std::move(entry.name),
          fmt::format("is of type {}, which is not read (expected F32, F16, BF16, F64, F8_E4M3 or F8_E5M2)",
                      entry.type->name));
      continue;
    }
    content.tensors.emplace(std::move(entry.name),
                            Tensor{.dtype = *entry.type->computed,
                                   .shape = std::move(entry.shape),
                                   .data = data.subspan(entry.begin, entry.end - entry.begin),
                                   .owner = file.owner()});
  }
  if (reached != data.size()) {
    fail("{}: {} bytes of data, but the header's tensors end at {}", where, data.size(), reached);
  }
  return content;
}

/// All shards of an index. A shard is opened when the first name asks for it.
SafetensorsContent read_shards(const std::filesystem::path& index_path) {
  const std::string where = index_path.string();
  const json index = parse_flat(read_file(index_path, longest_index), where);
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object()) {
    fail("{}: field 'weight_map' is missing or no object", where);
  }
  std::map<std::string, SafetensorsContent> shards;
  SafetensorsContent all;
  for (const auto& [name, shard] : weight_map->items()) {
    if (!shard.is_string()) {
      fail("{}: field 'weight_map': {} is in {}, expected a file's name", where, shown(name), shown(shard));
    }
    const auto& shard_name = shard.get_ref<const std::string&>();
    // A name only, so that an index cannot reach outside its directory.
    const auto shard_path = index_path.parent_path() / shard_name;
    std::error_code impossible;  // a name too long, for instance, which is no file either
    if (shard_name.find_first_of(std::string_view("/\0", 2)) != std::string::npos ||
        !std::filesystem::is_regular_file(shard_path, impossible)) {
      fail("{}: field 'weight_map': {} is in {}, which is no file beside the index", where, shown(name),
           shown(shard));
    }
    auto found = shards.find(shard_name);
    if (found == shards.end()) {
      found = shards.emplace(shard_name, read_content(shard_path)).first;
    }
    const auto tensor = found->second.tensors.find(name);
    if (tensor != found->second.tensors.end()) {
      all.tensors.insert(*tensor);
    } else {
      all.left_out.emplace(name, fmt::format("is in {} by the index, but not in that file", shown(shard)));
    }
  }
  for (auto& [shard_name, content] : shards) {
    for (const auto& [name, tensor] : content.tensors) {
      if (weight_map->contains(name)) continue;
      if (!all.tensors.emplace(name, tensor).second)
        fail("{}: tensor {} is in several shards, and 'weight_map' does not say in which", where,
             shown(name));
    }
    for (auto& [name, reason] : content.left_out) all.left_out.insert_or_assign(name, reason);
  }
  return all;
}

/// The weights that are there in another form than the one that is read, for a message.
std::string other_weights(const std::filesystem::path& directory) {
  std::set<std::string> names;
  std::error_code unreadable;
  for (const auto& entry : std::filesystem::directory_iterator(directory, unreadable)) {
    const std::string name = entry.path().filename().string();
    for (const char* suffix : {".safetensors", ".bin", ".pt", ".pth", ".gguf"})
      if (name.ends_with(suffix) && names.size() < 3) names.insert(shown(name));
  }
  return names.empty() ? "" : fmt::format(" (it holds {})", fmt::join(names, ", "));
}

}  // namespace

TensorMap read_safetensors(const std::filesystem::path& file) { return read_content(file).tensors; }

SafetensorsContent read_safetensors_directory(const std::filesystem::path& directory) {
  const auto single = directory / "model.safetensors";
  const auto index = directory / "model.safetensors.index.json";
  if (std::filesystem::exists(single)) return read_content(single);
  if (std::filesystem::exists(index)) return read_shards(index);
  fail(
      "{}: neither model.safetensors nor model.safetensors.index.json is there{}; weights in another form "
      "(pytorch_model.bin) must be saved as safetensors first",
      directory.string(), other_weights(directory));
}

}  // namespace fathom
