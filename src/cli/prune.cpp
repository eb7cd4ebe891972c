// fathom prune: fewer layers.
#include "depth/prune.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <span>

#include "base/error.h"
#include "cli/about.h"
#include "cli/measuring_text.h"
#include "cli/repair_choice.h"
#include "cli/verbs.h"

namespace fathom {
namespace {

struct PruneOptions : CommonOptions, TextOptions {
  std::filesystem::path model, out;
  std::string layers, by = "similarity", dtype = "bf16";
  RepairChoice repair;
  std::int64_t drop = 0, tokens = 16'384, context = 512;
  bool overwrite = false;
};

DType stored_type(const std::string& name) {
  if (name == "f32") return DType::f32;
  return name == "f16" ? DType::f16 : DType::bf16;
}

VisitChoice chosen_layers(const Checkpoint& checkpoint, const PruneOptions& options,
                          const MeasuringText& text) {
  if (!options.layers.empty()) {
    return {parse_layers(options.layers, checkpoint.plan.depth()), Json::object()};
  }
  ProfileOptions measuring;
  measuring.context = options.context;
  measuring.max_tokens = options.tokens;
  measuring.bos = text.bos;
  const auto ids =
      std::span(text.ids).first(std::min(text.ids.size(), static_cast<std::size_t>(options.tokens)));
  return about(options.text.empty() ? options.model : options.text, [&] {
    return choose_visits(checkpoint, options.drop, prune_method(options.by), ids, measuring);
  });
}

void run(const PruneOptions& options) {
  if (options.layers.empty() == (options.drop == 0)) {
    fail_usage("say which layers go: either --layers or --drop");
  }
  check_save_target(options.out, options.overwrite);
  const Checkpoint checkpoint = load_checkpoint(options.model);
  note_lost_exits(checkpoint);
  const bool chosen = options.layers.empty() && options.by != "last";
  if (options.layers.empty()) check_drop(checkpoint, options.drop);  // before any long work
  const std::int64_t tokens =
      std::max(chosen ? options.tokens : 0, repair_tokens(options.repair, checkpoint));
  MeasuringText text;
  if (tokens > 0) text = measuring_text(checkpoint, options, tokens, options.seed);
  const auto [layers, measurements] = chosen_layers(checkpoint, options, text);
  Checkpoint pruned = prune(checkpoint, layers, measurements);
  if (options.layers.empty()) {
    Json& how = pruned.provenance.back()["options"];
    how["by"] = options.by;
    if (options.by != "last")
      how["text"] = options.text.empty() ? "own samples" : options.text.filename().string();
  }
  pruned = repaired(options.repair, checkpoint, pruned, visits_at_seams(checkpoint.plan.depth(), layers),
                    text, options.context);
  save_checkpoint(pruned, options.out, options.overwrite, stored_type(options.dtype));
  fmt::print(options.json == "-" ? stderr : stdout, "dropped {} of {} layers ({}): {}\nwrote {}\n",
             layers.size(), checkpoint.plan.depth(), layer_ranges(layers),
             parameter_change(checkpoint, pruned), options.out.string());
  emit_json(options, Json{{"dropped", layers},
                          {"layers", pruned.plan.layers},
                          {"depth", pruned.plan.depth()},
                          {"parameters_before", count_parameters(checkpoint).non_embedding()},
                          {"parameters", count_parameters(pruned).non_embedding()}});
}

}  // namespace

void add_prune(CLI::App& program) {
  auto options = std::make_shared<PruneOptions>();
  CLI::App* verb = program.add_subcommand("prune", "Drop layers; the result is an ordinary, shallower model");
  verb->add_option("MODEL", options->model, "Directory (Hugging Face, Fathom) or GGUF file")->required();
  auto* layers = verb->add_option("--layers", options->layers,
                                  "Layers to drop, counted from 0, ranges inclusive: 21-28,30")
                     ->type_name("LIST");
  verb->add_option("--drop", options->drop, "How many to drop; --by chooses which")
      ->check(at_least(1))
      ->excludes(layers);
  verb->add_option(
          "--by", options->by,
          "similarity: the block whose input and output are most alike; last: those before the last; "
          "influence: least block influence, anywhere; influence-block: the same, contiguous; "
          "perplexity: one by one, what hurts least")
      ->check(CLI::IsMember({"similarity", "last", "influence", "influence-block", "perplexity"}))
      ->capture_default_str()
      ->type_name("METHOD");
  add_repair(*verb, options->repair);
  verb->add_option("--text", options->text,
                   "Text to measure on and to repair with; without it the model's own samples")
      ->type_name("FILE");
  add_text_format(*verb, options->text_format);
  verb->add_option("--tokens", options->tokens, "Tokens to measure on; perplexity uses a sixteenth of them")
      ->check(CLI::Range(1, most_measuring_tokens))
      ->capture_default_str();
  verb->add_option("--context", options->context, "Tokens in a window")
      ->check(at_least(1))
      ->capture_default_str();
  verb->add_option("--out", options->out, "Directory of the new model")->required()->type_name("DIR");
  verb->add_flag("--overwrite", options->overwrite, "Replace a model that is there");
  verb->add_option("--dtype", options->dtype, "What quantised tensors become: bf16, f16 or f32")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}))
      ->capture_default_str();
  add_common(*verb, *options, true);
  verb->footer("Example:\n  fathom prune models/smollm2.gguf --drop 4 --text wiki.txt --out smollm2-26");
  verb->callback([options] {
    apply_common(*options);
    run(*options);
  });
}

}  // namespace fathom
