// fathom export: a model for other programs.
#include <filesystem>
#include <map>
#include <memory>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "cli/verbs.h"
#include "depth/provenance.h"
#include "depth/unroll.h"
#include "model/gguf_save.h"
#include "model/peft.h"

namespace fathom {
namespace {

struct ExportOptions : CommonOptions {
  std::filesystem::path model, out, adapter;
  std::string to, type = "auto";
  double shard_gb = 5;
  bool overwrite = false, unroll = false;
};

const std::map<std::string, DType> types = {
    {"F32", DType::f32},   {"F16", DType::f16},   {"BF16", DType::bf16}, {"Q8_0", DType::q8_0},
    {"Q5_0", DType::q5_0}, {"Q4_0", DType::q4_0}, {"Q4_K", DType::q4_k}};

std::optional<DType> chosen_type(const ExportOptions& options) {
  if (options.type == "auto") return std::nullopt;
  const DType type = types.at(options.type);
  if (options.to == "peft") fail_usage("--type says what matrices become; adapters stay what they are");
  if (options.to == "hf" && !is_written(type))
    fail_usage("--type {}: --to hf writes F32, F16 or BF16; blocks of integers are for --to gguf",
               options.type);
  return type;
}

void convert(TensorMap& tensors, DType type) {
  for (auto& [name, tensor] : tensors) {
    check_interrupt();
    if (tensor.dtype != type || !tensor.is_plain()) tensor = make_tensor(type, tensor.shape, decode(tensor));
  }
}

/// The model as a plain one.
Checkpoint plain_model(const Checkpoint& checkpoint, std::optional<DType> merged_as) {
  if (checkpoint.plan.is_plain()) return checkpoint;
  Checkpoint result = unroll(checkpoint, merged_as);
  print_note(fmt::format("{}: written as {}{}", checkpoint.plan.describe(), result.plan.describe(),
                         checkpoint.plan.adapters() > 0 ? ", adapters merged into the matrices" : ""));
  return result;
}

void check_target(const ExportOptions& options) {
  if (options.to == "gguf") return check_gguf_target(options.out, options.overwrite);
  if (options.to == "peft") return check_peft_target(options.out, options.overwrite);
  check_save_target(options.out, options.overwrite);
}

/// Writes it and returns what was written.
Checkpoint write(const ExportOptions& options, const Checkpoint& checkpoint, std::optional<DType> type) {
  if (options.to == "peft") {
    save_peft(checkpoint, options.out, options.overwrite);
    return checkpoint;
  }
  // Pairs are merged in float32, and rounded once.
  const bool blocks = type && is_quantised(*type);
  const bool loops = options.to == "gguf" && !options.unroll && fits_gguf(checkpoint);
  Checkpoint model = loops ? checkpoint : plain_model(checkpoint, blocks ? DType::f32 : type);
  check_interrupt();
  if (options.to == "gguf") {
    save_gguf(model, options.out, options.overwrite, type);
  } else {
    if (type) convert(model.tensors, *type);
    if (!checkpoint.plan.is_plain()) add_provenance(model, "export", {{"to", options.to}}, Json::object());
    save_checkpoint(model, options.out, options.overwrite, type.value_or(DType::bf16),
                    static_cast<std::int64_t>(options.shard_gb * 1e9));
  }
  return model;
}

void run(const ExportOptions& options) {
  const std::optional<DType> type = chosen_type(options);
  check_target(options);
  Checkpoint checkpoint = load_checkpoint(options.model);
  if (!options.adapter.empty()) checkpoint = with_peft(checkpoint, options.adapter);
  const Checkpoint written = write(options, checkpoint, type);
  fmt::print(options.json == "-" ? stderr : stdout, "wrote {}\n", options.out.string());
  emit_json(options, Json{{"to", options.to},
                          {"layers", written.plan.layers},
                          {"parameters", count_parameters(written).non_embedding()}});
}

}  // namespace

void add_export(CLI::App& program) {
  auto options = std::make_shared<ExportOptions>();
  CLI::App* verb = program.add_subcommand("export", "Write a model for llama.cpp, transformers or PEFT");
  verb->add_option("MODEL", options->model, "Directory (Hugging Face, Fathom) or GGUF file")->required();
  verb->add_option("--to", options->to,
                   "gguf: a file for llama.cpp; hf: a directory that transformers loads; peft: the adapters "
                   "alone. For the first two tied layers are written "
                   "once for each visit, with their adapters merged")
      ->required()
      ->check(CLI::IsMember({"gguf", "hf", "peft"}))
      ->type_name("FORM");
  std::vector<std::string> names = {"auto"};
  for (const auto& [name, type] : types) names.push_back(name);
  verb->add_option("--type", options->type, "What matrices become; auto = what they are")
      ->check(CLI::IsMember(names))
      ->capture_default_str();
  verb->add_option("--adapter", options->adapter, "Put these PEFT adapters on the model first")
      ->type_name("DIR");
  verb->add_option("--shard", options->shard_gb, "hf: gigabytes in a file at most")
      ->check(CLI::Range(1e-6, 1e6))
      ->capture_default_str();
  verb->add_option("--out", options->out, "File (gguf) or directory to write")->required()->type_name("PATH");
  verb->add_flag("--unroll", options->unroll,
                 "gguf: also what llama.cpp could loop itself (since July 2026, as architecture nanbeige)");
  verb->add_flag("--overwrite", options->overwrite, "Replace what is there");
  add_common(*verb, *options, true);
  verb->footer("Example:\n  fathom export smollm2-x2 --to gguf --type Q8_0 --out smollm2-x2.gguf");
  verb->callback([options] {
    apply_common(*options);
    run(*options);
  });
}

}  // namespace fathom
