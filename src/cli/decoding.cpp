#include "cli/decoding.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <iterator>

#include "base/error.h"
#include "runtime/exit_rule.h"

namespace fathom {
namespace {

// The visits before the first that goes back to an earlier layer.
std::int64_t first_loop(const DepthPlan& plan) {
  for (std::size_t v = 1; v < plan.visits.size(); ++v)
    if (plan.visits[v].layer <= plan.visits[v - 1].layer) return static_cast<std::int64_t>(v);
  fail_usage("--draft loop is for models whose layers are visited again; this has {}", plan.describe());
}

// Whole numbers "N" or "N:M".
Draft parse_draft(const std::string& text, const DepthPlan& plan) {
  Draft draft;
  const std::size_t colon = text.find(':');
  const auto number = [&](std::string_view part, std::int64_t& to) {
    const auto [rest, error] = std::from_chars(part.data(), part.data() + part.size(), to);
    if (error != std::errc() || rest != part.data() + part.size() || to < 1)
      fail_usage("--draft is '{}', expected loop, or VISITS[:TOKENS] as in 10:6", text);
  };
  const std::string_view visits = std::string_view(text).substr(0, colon);
  if (colon != std::string::npos) number(std::string_view(text).substr(colon + 1), draft.most_tokens);
  if (visits == "loop")
    draft.visits = first_loop(plan);
  else
    number(visits, draft.visits);
  return draft;
}

ExitedKv parse_exited_kv(const std::string& name) {
  const auto* const found = std::ranges::find(exited_kv_names, name);
  return static_cast<ExitedKv>(found - exited_kv_names);
}

}  // namespace

void add_exit_options(CLI::App& verb, DecodingOptions& options) {
  verb.add_option("--exit", options.exit, "Let tokens leave early: a rule, and its threshold")
      ->type_name("RULE[:T]");
  verb.add_option("--exited-kv", options.exited_kv, "What later tokens see of visits that one did not make")
      ->check(CLI::IsMember(std::vector<std::string>(std::begin(exited_kv_names), std::end(exited_kv_names))))
      ->capture_default_str();
}

void add_decoding(CLI::App& verb, DecodingOptions& options) {
  add_exit_options(verb, options);
  verb.add_option("--draft", options.draft,
                  "The first visits, or the first loop, draft what the others verify")
      ->type_name("loop|VISITS[:TOKENS]");
}

DecoderOptions decoder_options(const DecodingOptions& options, const DepthPlan& plan) {
  DecoderOptions decoder = {.exited_kv = parse_exited_kv(options.exited_kv)};
  if (!options.exit.empty()) decoder.exit = parse_exit_rule(options.exit, plan);
  if (!options.draft.empty()) decoder.draft = parse_draft(options.draft, plan);
  exits_of(decoder, plan);  // what does not go is told before the weights are packed
  return decoder;
}

std::string depth_line(const Decoder::Counts& counts, const DepthPlan& plan) {
  const auto ratio = [](std::int64_t a, std::int64_t b) {
    return b == 0 ? 0 : static_cast<double>(a) / static_cast<double>(b);
  };
  if (counts.verified > 0)
    return fmt::format("drafts: {:.2f} tokens a pass, {:.0f} % of {} accepted",
                       ratio(counts.passed, counts.verified), 100 * ratio(counts.accepted, counts.drafted),
                       counts.drafted);
  if (counts.visits == counts.tokens * plan.depth()) return "";
  return fmt::format("depth {:.1f} of {} visits a token", ratio(counts.visits, counts.tokens), plan.depth());
}

std::string exit_rules_help() {
  std::string help = "Rules of --exit, each asked at the exits that the model marks (depth: at its own):\n";
  for (const ExitRuleKind* kind : exit_rule_kinds())
    help += fmt::format(
        "  {:<14} {}\n",
        fmt::format("{}:{}", kind->name, kind->threshold == 0 ? "N" : fmt::format("{}", kind->threshold)),
        kind->leaves_when);
  return help;
}

}  // namespace fathom
