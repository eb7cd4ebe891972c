// fathom exits: exits that are worth something, without training.
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "cli/about.h"
#include "cli/measuring_text.h"
#include "cli/verbs.h"
#include "depth/exit_fit.h"

namespace fathom {
namespace {

struct ExitsOptions : CommonOptions, TextOptions {
  std::filesystem::path model, out;
  std::int64_t tokens = 65'536;
  ExitFitOptions fit;
  bool overwrite = false;
};

void print_table(std::FILE* where, const ExitFitReport& report, const ExitFitOptions& options) {
  fmt::print(where, "fitted to {} tokens, measured on {} others; full depth: perplexity {:.2f}\n",
             report.tokens, report.held_out, report.full.perplexity());
  fmt::print(where, "{:<8}{:>12}{:>12}{:>14}{:>14}", "visits", "perplexity", "fitted", "as full depth",
             "fitted");
  if (options.shortlist > 0) fmt::print(where, "{:>12}", "shortlist");
  if (options.gate) fmt::print(where, "{:>10}", "gate AUC");
  fmt::print(where, "\n");
  for (const ExitFit& fit : report.exits) {
    fmt::print(where, "{:<8}{:>12.2f}{:>12.2f}{:>12.1f} %{:>12.1f} %", fit.depth,
               fit.before.perplexity.perplexity(), fit.after.perplexity.perplexity(),
               100 * fit.before.agreement, 100 * fit.after.agreement);
    if (options.shortlist > 0) fmt::print(where, "{:>10.1f} %", 100 * fit.shortlist);
    if (options.gate) fmt::print(where, "{:>10.3f}", fit.gate);
    fmt::print(where, "\n");
  }
}

void run(ExitsOptions& options) {
  check_save_target(options.out, options.overwrite);
  const Checkpoint checkpoint = load_checkpoint(options.model);
  check_exit_fit(checkpoint, options.fit);  // before any long work
  const MeasuringText text = measuring_text(checkpoint, options, options.tokens, options.seed);
  options.fit.bos = text.bos;
  ExitFitReport report;
  Checkpoint fitted = about(options.text.empty() ? options.model : options.text,
                            [&] { return fit_exits(checkpoint, text.ids, options.fit, report); });
  fitted.provenance.back()["options"]["text"] =
      options.text.empty() ? "own samples" : options.text.filename().string();
  save_checkpoint(fitted, options.out, options.overwrite);
  std::FILE* where = options.json == "-" ? stderr : stdout;
  print_table(where, report, options.fit);
  fmt::print(where, "wrote {}\n", options.out.string());
  emit_json(options, to_json(report));
}

}  // namespace

void add_exits(CLI::App& program) {
  auto options = std::make_shared<ExitsOptions>();
  CLI::App* verb = program.add_subcommand("exits", "Fit early exits to a model as it is, without training");
  verb->add_option("MODEL", options->model, "Directory (Hugging Face, Fathom) or GGUF file")->required();
  verb->add_option("--at", options->fit.depths,
                   "Visits that a token has made at each exit, as in 10,15,20,25")
      ->required()
      ->delimiter(',')
      ->type_name("VISITS");
  verb->add_option("--rank", options->fit.rank,
                   "Of the translators; 0 = whole matrices, each a tenth of a layer")
      ->check(at_least(0))
      ->capture_default_str();
  verb->add_flag(
      "--gate", options->fit.gate,
      "Also fit gates, which tell without the head whether full depth would choose the same: --exit gate");
  verb->add_option(
          "--shortlist", options->fit.shortlist,
          "Exits, and drafts, choose from so many tokens that full depth chooses often; 0 = from all")
      ->check(at_least(0))
      ->capture_default_str();
  verb->add_option("--text", options->text, "Text to fit to; without it the model's own samples")
      ->type_name("FILE");
  add_text_format(*verb, options->text_format);
  verb->add_option("--tokens", options->tokens,
                   "Tokens of it; of every eight windows one is held out to measure on")
      ->check(CLI::Range(1, most_measuring_tokens))
      ->capture_default_str();
  verb->add_option("--context", options->fit.context, "Tokens in a window")
      ->check(at_least(3))
      ->capture_default_str();
  verb->add_option("--out", options->out, "Directory of the new model")->required()->type_name("DIR");
  verb->add_flag("--overwrite", options->overwrite, "Replace a model that is there");
  add_common(*verb, *options, true);
  verb->footer(
      "The state of a token in the middle of a model means little to the head, which reads what\n"
      "the last layer writes. A translator at each exit is a linear map from the one to the other,\n"
      "the best one for the text (a tuned lens, in closed form). Tokens that make all visits stay\n"
      "as they are to the last bit: the new model has the old weights, and exits.safetensors\n"
      "beside them. Changing layers afterwards (prune, recur, train) drops it: fit again.\n\n"
      "Example:\n"
      "  fathom exits smollm2.gguf --at 10,15,20,25 --gate --shortlist 4096 --text wiki.txt --out out\n"
      "  fathom generate out --prompt \"The tide\" --exit gate:0.9\n"
      "  fathom generate out --prompt \"The tide\" --draft 15:4");
  verb->callback([options] {
    apply_common(*options);
    run(*options);
  });
}

}  // namespace fathom
