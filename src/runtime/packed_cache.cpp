#include "runtime/packed_cache.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "base/error.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "base/fingerprint.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "kernels/packed_matrix.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view magic = "fathom packed weights\n", extension = ".packed";
constexpr std::size_t page = 4096;

// One for each weight, after magic and key.
struct Entry {
  std::uint64_t type = 0, bytes = 0;
};

// What the packed bytes follow from; nothing where a tensor lies in no file. Some bytes of each weight tell
// models apart on file systems that give all files one time; of one part, since each costs 4 ms on a cold
// disk.
std::optional<std::string> key_of(std::span<const WeightToPack> weights) {
  Fingerprint digest;
  digest.add(fmt::format("layout {}", packed_layout));
  for (const WeightToPack& weight : weights) {
    digest.add(
        fmt::format("{} parts, {} {}", weight.parts.size(), compute_name(weight.compute), weight.gated));
    for (const LinearPart& part : weight.parts) {
      const Tensor& tensor = *part.weight;
      const std::string file = mapped_from(tensor.data);
      if (file.empty()) return std::nullopt;
      digest.add(fmt::format("{}: {} {} {} {}", file, dtype_name(tensor.dtype), to_string(tensor.shape),
                             tensor.interleaved_heads, tensor.decoded_offset));
    }
    const std::span<const std::byte> first = weight.parts[0].weight->data;
    const std::span<const std::byte> half = first.subspan(first.size() / 2);
    digest.add(half.first(std::min<std::size_t>(half.size(), 64)));
    release_pages(first);
  }
  return digest.hex();
}

// All before the matrices, which follow one another from the next page on.
std::string head_of(const std::string& key, std::span<const Entry> entries) {
  std::string head = std::string(magic) + key;
  head.append(reinterpret_cast<const char*>(entries.data()), entries.size_bytes());
  Fingerprint digest;
  digest.add(head);
  head += digest.hex();
  head.resize((head.size() + page - 1) / page * page);
  return head;
}

// The entries for so many weights, if the file's head is whole.
std::optional<std::vector<Entry>> read_entries(std::span<const std::byte> file, const std::string& key,
                                               std::size_t weights) {
  std::vector<Entry> entries(weights);
  const auto table = std::as_writable_bytes(std::span(entries));
  const std::size_t before = magic.size() + key.size();
  if (file.size() < before + table.size()) return std::nullopt;
  std::memcpy(table.data(), file.data() + before, table.size());
  const std::string head = head_of(key, entries);
  const bool whole = file.size() >= head.size() && std::memcmp(file.data(), head.data(), head.size()) == 0;
  return whole ? std::optional(entries) : std::nullopt;
}

// False where there is no file, or none of these weights: then they are to be packed.
bool view_all(std::span<const WeightToPack> weights, const Backend& backend, const fs::path& path,
              const std::string& key) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return false;
  try {
    const MappedFile file(path);
    const auto entries = read_entries(file.bytes(), key, weights.size());
    if (!entries) return false;
    auto rest = file.bytes().subspan(head_of(key, *entries).size());
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const auto [type, bytes] = (*entries)[i];
      if (type >= static_cast<std::uint64_t>(Compute::native) || bytes > rest.size()) return false;
      *weights[i].packed = backend.view(weights[i].parts, weights[i].gated, static_cast<Compute>(type),
                                        rest.first(bytes), file.owner());
      if (*weights[i].packed == nullptr) return false;
      rest = rest.subspan(bytes);
    }
    if (!rest.empty()) return false;
  } catch (const Error&) {  // not readable: as if it were not there
    return false;
  }
  fs::last_write_time(path, fs::file_time_type::clock::now(), ignored);  // used last now
  return true;
}

void pack_all(std::span<const WeightToPack> weights, const Backend& backend) {
  for (const auto& [packed, parts, gated, compute] : weights) {
    *packed = gated ? backend.pack_gated(parts[0], parts[1], compute) : backend.pack(parts, compute);
    for (const LinearPart& part : parts) release_pages(part.weight->data);
  }
}

// Whether the name is one that this part gives: the folder may be the user's, with other files in it.
bool is_ours(const fs::path& path) {
  const std::string name = path.stem().string();
  return path.extension() == extension && name.size() == Fingerprint().hex().size() &&
         name.find_first_not_of("0123456789abcdef") == std::string::npos;
}

// Removes what a killed process left, and files that were not used for longest, until `bytes` more fit.
void make_room(const PackedCache& cache, std::int64_t bytes) {
  std::vector<fs::directory_entry> files;
  for (const fs::directory_entry& file : fs::directory_iterator(cache.folder)) {
    if (is_ours(file.path())) files.push_back(file);
    if (file.path().extension() == ".part" && is_ours(file.path().stem())) fs::remove(file.path());
  }
  std::ranges::sort(files, std::greater(),
                    [](const fs::directory_entry& file) { return file.last_write_time(); });
  for (const fs::directory_entry& file : files) {
    bytes += static_cast<std::int64_t>(file.file_size());
    if (bytes > cache.most_bytes) fs::remove(file.path());
  }
}

// Pieces end where a huge page does: file systems that can then hold it in one, and reading all weights from
// those is as fast as from packed memory, 5 % faster than from pages of 4 KB.
void write_all(std::span<const WeightToPack> weights, const fs::path& path, const std::string& head) {
  constexpr std::size_t huge_page = std::size_t{2} << 20;
  AtomicFile file(path);
  file.write(head);
  std::size_t at = head.size();
  for (const WeightToPack& weight : weights) {
    for (auto data = (*weight.packed)->data; !data.empty();) {
      check_interrupt();
      const auto piece = data.first(std::min(huge_page - at % huge_page, data.size()));
      file.write(piece);
      at += piece.size();
      data = data.subspan(piece.size());
    }
  }
  file.commit();
}

void keep(std::span<const WeightToPack> weights, const PackedCache& cache, const fs::path& path,
          const std::string& key) {
  std::vector<Entry> entries;
  std::uint64_t bytes = 0;
  for (const WeightToPack& weight : weights) {
    const PackedLinear& packed = **weight.packed;
    if (packed.data.empty()) return;  // this backend keeps none
    entries.push_back({static_cast<std::uint64_t>(packed.type), packed.data.size()});
    bytes += packed.data.size();
  }
  const std::string head = head_of(key, entries);
  bytes += head.size();
  const auto size = static_cast<std::int64_t>(bytes);
  if (size > cache.most_bytes) return;
  fs::create_directories(cache.folder);
  const FileLock lock(cache.folder / "lock");
  if (!lock.held()) return;  // another process writes, perhaps the same
  if (const auto free = fs::space(cache.folder).available; free / 3 < bytes)
    fail("they take {}, and of {} that the disk has free two thirds are to stay", format_bytes(size),
         format_bytes(static_cast<std::int64_t>(free)));
  make_room(cache, size);
  write_all(weights, path, head);
  print_note(fmt::format("{}: packed weights for the next start, {} (FATHOM_CACHE=off: none)", path.string(),
                         format_bytes(size)));
}

}  // namespace

PackedCache user_cache() {
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return fs::path(value == nullptr ? "" : value);
  };
  const fs::path own = variable("FATHOM_CACHE"), cache = variable("XDG_CACHE_HOME"), home = variable("HOME");
  if (own == "off") return {};
  if (!own.empty()) return {.folder = own};
  if (cache.is_absolute()) return {.folder = cache / "fathom"};  // the standard has others ignored
  return {.folder = home.empty() ? home : home / ".cache" / "fathom"};
}

void pack_or_view(std::span<const WeightToPack> weights, const Backend& backend, const PackedCache& cache) {
  const auto key = cache.folder.empty() ? std::nullopt : key_of(weights);
  if (!key) return pack_all(weights, backend);
  const fs::path path = cache.folder / (*key + std::string(extension));
  if (view_all(weights, backend, path, *key)) return;
  const auto start = std::chrono::steady_clock::now();
  pack_all(weights, backend);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (seconds.count() < cache.least_seconds) return;
  try {
    keep(weights, cache, path, *key);
  } catch (const Interrupted&) {
    throw;
  } catch (const std::exception& e) {
    print_note(
        fmt::format("{}: packed weights are not kept: {} (FATHOM_CACHE=DIR: elsewhere, off: not at all)",
                    cache.folder.string(), e.what()));
  }
}

}  // namespace fathom
