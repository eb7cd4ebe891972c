// fathom recur: fewer layers, each run several times.
#include "depth/recur.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "cli/about.h"
#include "cli/measuring_text.h"
#include "cli/repair_choice.h"
#include "cli/verbs.h"

namespace fathom {
namespace {

struct RecurVerbOptions : CommonOptions, TextOptions {
  std::filesystem::path model, out;
  std::string share = "middle-sequence", init = "calibrated", lora = "svd";
  RecurOptions recur;
  bool overwrite = false;
  RepairChoice repair;
};

Json errors_json(const FitReport& report) {
  Json visits = Json::array();
  for (const auto& errors : report.error) {
    Json visit = Json::object();
    for (const Linear linear : all_linears)
      visit[linear_name(linear)] = errors[static_cast<std::size_t>(linear)];
    visits.push_back(std::move(visit));
  }
  return visits;
}

void print_errors(std::FILE* where, const Json& means) {
  fmt::print(where, "relative error of the tied depths:");
  for (const auto& [name, error] : means.items()) {
    fmt::print(where, " {} {:.3f}", name.substr(name.find('.') + 1, name.find("_proj") - name.find('.') - 1),
               error.get<double>());
  }
  fmt::print(where, "\n");
}

void run(RecurVerbOptions& options) {
  options.recur.sharing = sharing_from_name(options.share);
  options.recur.init = shared_init_from_name(options.init);
  options.recur.lora = lora_init_from_name(options.lora);
  options.recur.seed = options.seed;
  if (!options.text.empty() && options.recur.init != SharedInit::calibrated) {
    fail_usage("--text is read by --init calibrated alone; --init is {}", options.init);
  }
  check_save_target(options.out, options.overwrite);
  const Checkpoint checkpoint = load_checkpoint(options.model);
  note_lost_exits(checkpoint);
  share_layers(checkpoint.plan.depth(), options.recur.loops, options.recur.sharing);  // before any long work
  const bool calibrated = options.recur.init == SharedInit::calibrated;
  const bool relaxed = options.recur.rank > 0 && options.recur.lora == LoraInit::svd;
  MeasuringText text;
  if (calibrated) {
    const std::int64_t repair = relaxed ? repair_tokens(options.repair, checkpoint) : 0;
    text =
        measuring_text(checkpoint, options, std::max(options.recur.calibration_tokens, repair), options.seed);
    options.recur.bos = text.bos;
  }
  FitReport report;
  Checkpoint recursive = about(options.text.empty() ? options.model : options.text,
                               [&] { return recur(checkpoint, options.recur, text.ids, &report); });
  Json& step = recursive.provenance.back();
  if (options.recur.init == SharedInit::calibrated) {
    step["options"]["text"] = options.text.empty() ? "own samples" : options.text.filename().string();
  }
  const Json fitted = step["measurements"]["relative_error"];
  if (calibrated && relaxed)
    recursive = repaired(options.repair, checkpoint, recursive, visits_with_adapters(recursive), text,
                         options.recur.context);
  save_checkpoint(recursive, options.out, options.overwrite);
  std::FILE* where = options.json == "-" ? stderr : stdout;
  fmt::print(where, "{}: {}\n", recursive.plan.describe(), parameter_change(checkpoint, recursive));
  print_errors(where, fitted);
  fmt::print(where, "wrote {}\n", options.out.string());
  emit_json(options, Json{{"plan", to_json(recursive.plan)},
                          {"parameters_before", count_parameters(checkpoint).non_embedding()},
                          {"parameters", count_parameters(recursive).non_embedding()},
                          {"relative_error", errors_json(report)}});
}

}  // namespace

void add_recur(CLI::App& program) {
  auto options = std::make_shared<RecurVerbOptions>();
  CLI::App* verb =
      program.add_subcommand("recur", "Tie layers and loop them; each visit gets its own low-rank adapter");
  verb->add_option("MODEL", options->model, "Directory (Hugging Face, Fathom) or GGUF file")->required();
  verb->add_option("--loops", options->recur.loops, "Depths that share one layer")
      ->required()
      ->check(at_least(1));
  verb->add_option(
          "--share", options->share,
          "cycle: 0 1 2 0 1 2; sequence: 0 0 1 1 2 2; middle-...: the same, first and last layer untied")
      ->check(CLI::IsMember({"cycle", "sequence", "middle-cycle", "middle-sequence"}))
      ->capture_default_str()
      ->type_name("ORDER");
  verb->add_option(
          "--init", options->init,
          "Shared weights: average; stepwise: layers at regular intervals; lower: the first; calibrated: "
          "fitted, with the adapters, to what the layers read on a text")
      ->check(CLI::IsMember({"average", "stepwise", "lower", "calibrated"}))
      ->capture_default_str()
      ->type_name("INIT");
  verb->add_option("--rank", options->recur.rank, "Of the adapters, clipped to each matrix; 0 = none")
      ->check(at_least(0))
      ->capture_default_str();
  verb->add_option("--lora", options->lora,
                   "svd: adapters hold what tying lost; zero: they start from nothing")
      ->check(CLI::IsMember({"svd", "zero"}))
      ->capture_default_str()
      ->type_name("START");
  verb->add_option("--text", options->text, "Calibration text; without it the model's own samples")
      ->type_name("FILE");
  add_text_format(*verb, options->text_format);
  verb->add_option("--tokens", options->recur.calibration_tokens, "Calibration tokens")
      ->check(CLI::Range(1, most_measuring_tokens))
      ->capture_default_str();
  verb->add_option("--context", options->recur.context, "Tokens in a window")
      ->check(at_least(1))
      ->capture_default_str();
  verb->add_option("--rounds", options->recur.rounds, "Rounds of the calibrated fit")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  add_repair(*verb, options->repair);
  verb->add_option("--out", options->out, "Directory of the new model")->required()->type_name("DIR");
  verb->add_flag("--overwrite", options->overwrite, "Replace a model that is there");
  add_common(*verb, *options, true);
  verb->footer(
      "Example:\n  fathom recur models/smollm2.gguf --loops 2 --rank 128 --text wiki.txt --out smollm2-x2");
  verb->callback([options] {
    apply_common(*options);
    run(*options);
  });
}

}  // namespace fathom
