#include "formats/gguf_split.h"

#include <cstdint>
#include <limits>
#include <utility>

#include "base/error.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr const char* count_key = "split.count";
constexpr const char* number_key = "split.no";
constexpr const char* tensors_key = "split.tensors.count";

std::int64_t number_in(const GgufPart& part, const fs::path& path, const char* key, std::int64_t least,
                       std::int64_t most) {
  const auto found = part.metadata.find(key);
  const auto* value = found == part.metadata.end() ? nullptr : std::get_if<std::int64_t>(&found->second);
  if (value == nullptr || *value < least || *value > most)
    fail("{}: metadata \"{}\" is {}, expected a whole number from {} to {}", path.string(), key,
         value == nullptr ? "missing or of another type" : std::to_string(*value), least, most);
  return *value;
}

std::string ending(std::int64_t number, std::int64_t count) {
  return fmt::format("-{:05}-of-{:05}.gguf", number + 1, count);
}

/// The name of a part without its ending.
std::string prefix_of(const fs::path& path, std::int64_t number, std::int64_t count) {
  const std::string name = path.filename().string(), end = ending(number, count);
  if (!name.ends_with(end))
    fail("{}: is part {} of {} of a model by its metadata; the others are only found if its name ends in {}",
         path.string(), number + 1, count, end);
  return name.substr(0, name.size() - end.size());
}

}  // namespace

GgufPart join_gguf_parts(fs::path& path, GgufPart part) {
  constexpr std::int64_t most_parts = std::numeric_limits<std::uint16_t>::max();
  if (!part.metadata.contains(count_key)) return part;
  const std::int64_t count = number_in(part, path, count_key, 0, most_parts);
  if (count <= 1) return part;
  const std::int64_t given = number_in(part, path, number_key, 0, count - 1);
  const std::string prefix = prefix_of(path, given, count);

  GgufPart whole;
  for (std::int64_t number = 0; number < count; ++number) {
    const fs::path file = number == given ? path : path.parent_path() / (prefix + ending(number, count));
    if (!fs::exists(file))
      fail("{} is missing: it is part {} of {} of the model that {} belongs to", file.string(), number + 1,
           count, path.filename().string());
    GgufPart next = number == given ? part : read_gguf_part(file);
    number_in(next, file, count_key, count, count);
    number_in(next, file, number_key, number, number);
    if (number == 0) whole.metadata = std::move(next.metadata);
    for (auto& [name, tensor] : next.tensors)
      if (!whole.tensors.emplace(name, std::move(tensor)).second)
        fail("{}: tensor {} is in an earlier part, too", file.string(), gguf_shown(name));
  }
  path = path.parent_path() / (prefix + ending(0, count));
  const std::int64_t held = std::ssize(whole.tensors);
  if (whole.metadata.contains(tensors_key)) {
    const std::int64_t said =
        number_in(whole, path, tensors_key, 0, std::numeric_limits<std::int64_t>::max());
    if (said != held)
      fail(
          "{}: metadata \"{}\" is {}, but the {} parts hold {} tensors: make the parts anew from the "
          "whole model",
          path.string(), tensors_key, said, count, held);
  }
  return whole;
}

}  // namespace fathom
