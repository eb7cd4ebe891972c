#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/processor.h"
#include "base/progress.h"
#include "base/threads.h"
#include "cli/verbs.h"
#include "formats/text_format.h"
#include "kernels/backend.h"
#include "runtime/model.h"

namespace fathom {

void add_common(CLI::App& verb, CommonOptions& options, bool reports_figures) {
  verb.add_option("--threads", options.threads, "Threads; 0 = all cores")->capture_default_str();
  verb.add_option("--seed", options.seed, "Seed of everything random")->capture_default_str();
  verb.add_flag("--quiet,-q", options.quiet, "No progress bars and notes");
  if (reports_figures)
    verb.add_option("--json", options.json, "Write the figures as JSON; - = standard output")
        ->type_name("FILE");
}

CLI::IsMember is_dtype() {
  std::vector<std::string> names(compute_names.begin(), compute_names.end());
  names.insert(names.begin(), "auto");
  return CLI::IsMember(names);
}

void add_dtype(CLI::App& verb, std::string& dtype) {
  verb.add_option("--dtype", dtype, "Weights and products; auto = as the file has them")
      ->capture_default_str()
      ->check(is_dtype());
}

CLI::Validator at_least(std::int64_t least) {
  const auto check = [least](const std::string& text) {
    std::int64_t value = 0;
    // The library takes an empty text for 0.
    const bool number = !text.empty() && CLI::detail::lexical_cast(text, value);
    return number && value >= least ? "" : fmt::format("'{}' is no whole number from {} on", text, least);
  };
  return {check, ""};
}

Compute choose_compute(const std::string& dtype, const Checkpoint& checkpoint) {
  if (dtype == "auto") return own_compute(checkpoint);
  const auto* const found = std::ranges::find(compute_names, dtype);
  if (found == compute_names.end())
    fail_usage("--dtype is '{}', expected auto, {}", dtype, fmt::join(compute_names, ", "));
  return static_cast<Compute>(found - compute_names.begin());
}

std::optional<Compute> choose_kv(const std::string& kv) {
  if (kv == "auto") return std::nullopt;
  if (kv == "bf16") return Compute::bf16;
  if (kv == "int8") return Compute::int8;
  fail_usage("--kv is '{}', expected auto, bf16 or int8", kv);
}

void add_kv(CLI::App& verb, std::string& kv) {
  verb.add_option("--kv", kv, "Keys and values as bf16 or int8; auto = bf16, beside f32 f32")
      ->check(CLI::IsMember({"auto", "bf16", "int8"}))
      ->capture_default_str();
}

void add_text_format(CLI::App& verb, std::string& format) {
  verb.add_option("--text-format", format, "text: as it stands; json: its records; auto: by name and content")
      ->check(CLI::IsMember(std::vector<std::string>(text_format_names.begin(), text_format_names.end())))
      ->capture_default_str();
}

void apply_common(const CommonOptions& options) {
  set_quiet(options.quiet);
  set_threads(options.threads);
  // More would take turns on the cores while others wait for them.
  if (options.threads <= usable_cores()) return;
  print_note(fmt::format("--threads {}: {}, since the process may use no more cores", options.threads,
                         usable_cores()));
  set_threads(usable_cores());
}

void print_error(std::string_view message) {
  constexpr std::size_t longest = 2000;
  std::string text;
  for (const char c : message.substr(0, longest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      text += fmt::format("\\x{:02x}", byte);
    } else {
      text += c;
    }
  }
  fmt::print(stderr, "fathom: {}{}\n", text, message.size() > longest ? "..." : "");
}

void emit_json(const CommonOptions& options, const Json& figures) {
  if (options.json.empty()) return;
  const std::string text = figures.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (options.json == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  } else {
    write_file(options.json, text);
  }
}

}  // namespace fathom
