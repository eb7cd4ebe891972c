// What `generate` and `chat` share: sampling options, the model with its tokenizer, and the line about speed.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/decoding.h"
#include "model/checkpoint.h"
#include "runtime/engine.h"
#include "runtime/generate.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace fathom {

struct GenerationOptions {
  std::filesystem::path model;
  GenerateOptions generate;
  DecodingOptions decoding;
  std::string dtype = "auto", kv = "auto";
  std::int64_t context = 0, kv_memory = 0;
  bool trace = false, show_depth = false;
};

/// MODEL, --max-tokens, --stop, --dtype, --kv, --context, --kv-memory, --trace and the sampler's options.
void add_generation_options(CLI::App& verb, GenerationOptions& options);

struct LoadedModel {
  Checkpoint checkpoint;
  Tokenizer tokenizer;
  Engine engine;
};
/// Says on standard error what computes, unless `quiet`; sets what `options.generate` has of the plan.
LoadedModel load_model(GenerationOptions& options, bool quiet);

/// Throws Error when the model has no chat template.
ChatTemplate chat_template_of(const LoadedModel& model);

/// "prompt 12 tokens, 340.1 tok/s; ..."
std::string speed_line(const Generated& generated, const DepthPlan& plan);

/// Writes to standard output at once.
void print_text(std::string_view text);
/// The same, with --show-depth in colours from blue (the first visit) to red (the plan's last).
void print_at_depth(const GenerationOptions& options, const DepthPlan& plan, std::string_view text,
                    std::int64_t visits);

}  // namespace fathom
