// One function a verb: it adds its sub-command to the program. Thin: parse, call, print.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "kernels/backend.h"
#include "model/checkpoint.h"

namespace fathom {

/// What every verb takes. add_common gives the sub-command --threads, --seed, --quiet and, if it reports
/// figures, --json.
struct CommonOptions {
  int threads = 0;
  std::uint64_t seed = 0;
  std::string json;
  bool quiet = false;
};
void add_common(CLI::App& verb, CommonOptions& options, bool reports_figures);
/// --dtype for verbs that run a model; and the check of such a value.
void add_dtype(CLI::App& verb, std::string& dtype);
CLI::IsMember is_dtype();
/// For an option of a whole number, or of several: each is `least` or more.
CLI::Validator at_least(std::int64_t least);
/// What --dtype asks for: one of compute_names, or "auto", which is own_compute. Throws UsageError.
Compute choose_compute(const std::string& dtype, const Checkpoint& checkpoint);
/// --kv, and what it asks for (EngineOptions::kv): "auto", "bf16" or "int8". Throws UsageError.
void add_kv(CLI::App& verb, std::string& kv);
std::optional<Compute> choose_kv(const std::string& kv);
/// --text-format, for text_format of formats/text_format.h.
void add_text_format(CLI::App& verb, std::string& format);
/// Sets threads and quiet mode; the first line of every verb's callback.
void apply_common(const CommonOptions& options);
/// "fathom: MESSAGE" on standard error. A message may quote what a file holds: control characters, which a
/// terminal would obey, are spelled out, and what is long is cut.
void print_error(std::string_view message);
/// Writes figures where --json says ("-": standard output); nothing when it was not given.
void emit_json(const CommonOptions& options, const Json& figures);

void add_inspect(CLI::App& program);
void add_tokenize(CLI::App& program);
void add_logits(CLI::App& program);
void add_generate(CLI::App& program);
void add_chat(CLI::App& program);
void add_eval(CLI::App& program);
void add_bench(CLI::App& program);
void add_profile(CLI::App& program);
void add_prune(CLI::App& program);
void add_recur(CLI::App& program);
void add_exits(CLI::App& program);
void add_export(CLI::App& program);
void add_train(CLI::App& program);
void add_compress(CLI::App& program);

}  // namespace fathom
