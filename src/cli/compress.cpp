#include "compress/compress.h"

#include <fmt/format.h>

#include <cstdio>
#include <memory>

#include "cli/verbs.h"
#include "train/run/options.h"

namespace fathom {

void add_compress(CLI::App& program) {
  struct Options : CommonOptions, CompressOptions {
    std::string device_name = "auto";
  };
  auto options = std::make_shared<Options>();
  CLI::App* verb = program.add_subcommand(
      "compress", "The main job: make a model cheaper in depth, train it back, account for it");
  verb->add_option("MODEL", options->model, "Directory (Hugging Face, Fathom) or GGUF file")->required();
  verb->add_option("--out,-o", options->out, "Directory for the new model, account.json and report.html")
      ->required();
  verb->add_option("--text", options->text,
                   "Text to calibrate with and train on (plain or JSON, .zst of either); without it the "
                   "model's own samples");
  verb->add_option("--eval-text", options->eval_text,
                   "Text to measure perplexity on; without it a held-out part of the data");
  add_text_format(*verb, options->text_format);
  verb->add_option("--target", options->target,
                   "Fraction of the parameters outside the embeddings to keep, at most")
      ->capture_default_str();
  verb->add_option(
          "--method", options->method,
          "prune (drop layers), recur (tie them, relaxed by LoRA) or auto (try both, keep the better)")
      ->capture_default_str();
  verb->add_option("--minutes", options->minutes, "Time for the whole job")->capture_default_str();
  verb->add_option("--device", options->device_name,
                   "What trains and measures perplexity (fathom train --help); auto: a GPU if there")
      ->check(CLI::IsMember(devices))
      ->capture_default_str();
  verb->add_flag("--overwrite", options->overwrite, "Replace a model that is already in --out");
  add_common(*verb, *options, true);
  verb->footer(
      "Example:\n  fathom compress models/smollm2.gguf --out small --text corpus.jsonl.zst --target 0.8 "
      "--minutes 30");
  verb->callback([options] {
    apply_common(*options);
    options->CompressOptions::seed = options->CommonOptions::seed;
    options->device = devices.at(options->device_name);
    const Json account = compress(*options);
    std::FILE* where = options->json == "-" ? stderr : stdout;
    fmt::print(where, "\n{}\n{}\n", account_table(account), (options->out / "report.html").string());
    emit_json(*options, account);
  });
}

}  // namespace fathom
