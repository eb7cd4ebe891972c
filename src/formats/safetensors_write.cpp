// Tensors into a safetensors file.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/file.h"
#include "formats/finite.h"
#include "formats/safetensors.h"

namespace fathom {
namespace {

using nlohmann::json;

constexpr std::size_t data_alignment = 64;

/// A tensor's values on their way into the file. They are looked at in pieces of a megabyte, which are still
/// in the cache when they are written.
class TensorWriter {
 public:
  TensorWriter(AtomicFile& out, std::string where, const Tensor& tensor, DType dtype)
      : out_(out), where_(std::move(where)), tensor_(tensor), dtype_(dtype) {}

  void write() {
    if (!tensor_.is_plain()) return write_decoded();
    constexpr std::size_t piece = std::size_t{1} << 20;
    for (auto rest = tensor_.data; !rest.empty(); rest = rest.subspan(std::min(piece, rest.size())))
      put(rest.first(std::min(piece, rest.size())));
  }

 private:
  void write_decoded() {
    const std::int64_t width = std::max<std::int64_t>(tensor_.row_elements(), 1);
    const std::int64_t step = std::max<std::int64_t>((std::int64_t{1} << 18) / width, 1);
    std::vector<float> values;
    std::vector<std::byte> encoded;
    for (std::int64_t first = 0; first < tensor_.rows(); first += step) {
      const std::int64_t count = std::min(step, tensor_.rows() - first);
      values.resize(static_cast<std::size_t>(count * tensor_.row_elements()));
      encoded.resize(values.size() * static_cast<std::size_t>(block_bytes(dtype_)));
      decode_rows(tensor_, first, count, values);
      encode(dtype_, values, encoded);
      put(encoded);
    }
  }

  void put(std::span<const std::byte> values) {
    const auto each = static_cast<std::size_t>(block_bytes(dtype_));
    if (const auto found = first_not_finite(dtype_, values)) {
      const Tensor value{
          .dtype = dtype_, .shape = {1}, .data = values.subspan(*found * each, each), .owner = {}};
      fail(
          "{} would hold {} as {} (element {} of {}), and a model's weights must be finite: it is not "
          "written. "
          "The model that it was made from is damaged, or {} is too narrow for it",
          where_, decode(value).front(), dtype_name(dtype_), done_ + *found, to_string(tensor_.shape),
          dtype_name(dtype_));
    }
    out_.write(values);
    done_ += values.size() / each;
  }

  AtomicFile& out_;
  /// "FILE: tensor 'NAME'"; the file's name alone, since models are written into a folder that is not theirs
  /// yet.
  std::string where_;
  const Tensor& tensor_;
  DType dtype_;
  std::size_t done_ = 0;
};

}  // namespace

void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, Tensor>>& tensors, DType decoded_as) {
  json header = {{"__metadata__", {{"format", "pt"}}}};
  std::int64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const DType dtype = written_type(tensor.dtype, decoded_as);
    const std::int64_t end = offset + tensor.elements() * block_bytes(dtype);
    const bool added = header
                           .emplace(name, json{{"dtype", dtype_name(dtype)},
                                               {"shape", tensor.shape},
                                               {"data_offsets", {offset, end}}})
                           .second;
    if (!added) fail("{}: two tensors are named \"{}\"", file.string(), name);
    offset = end;
  }
  std::string text = header.dump();
  const std::uint64_t unpadded = sizeof(std::uint64_t) + text.size();
  // Spaces behind the header put the data on a cache line's boundary; between tensors the format allows none.
  text.append((data_alignment - unpadded % data_alignment) % data_alignment, ' ');

  AtomicFile out(file);
  const std::uint64_t header_length = text.size();
  out.write(std::as_bytes(std::span(&header_length, 1)));
  out.write(text);
  for (const auto& [name, tensor] : tensors)
    TensorWriter(out, fmt::format("{}: tensor '{}'", file.filename().string(), name), tensor,
                 written_type(tensor.dtype, decoded_as))
        .write();
  out.commit();
}

}  // namespace fathom
