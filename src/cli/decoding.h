// The options of verbs that generate about depth: early exits and self-speculation.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "model/depth_plan.h"
#include "runtime/decoder.h"

namespace fathom {

struct DecodingOptions {
  std::string exit, exited_kv = "exact", draft;
};

/// --exit, --exited-kv.
void add_exit_options(CLI::App& verb, DecodingOptions& options);
/// These and --draft.
void add_decoding(CLI::App& verb, DecodingOptions& options);
/// Throws UsageError for words that are none, and for what the plan does not allow.
DecoderOptions decoder_options(const DecodingOptions& options, const DepthPlan& plan);

/// "depth 21.3 of 30 visits a token", "drafts: 4.1 tokens a pass, 61 % of the drafted accepted"; nothing
/// where every token has full depth.
std::string depth_line(const Decoder::Counts& counts, const DepthPlan& plan);

/// For --help: what each rule's threshold means.
std::string exit_rules_help();

}  // namespace fathom
