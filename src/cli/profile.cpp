// fathom profile: what each layer contributes.
#include "depth/profile.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/file.h"
#include "cli/about.h"
#include "cli/measuring_text.h"
#include "cli/verbs.h"
#include "report/html.h"

namespace fathom {
namespace {

struct ProfileVerbOptions : CommonOptions, TextOptions {
  std::filesystem::path model, html;
  ProfileOptions profile;
};

/// Rows of {n, layers, distance} for blocks of 1 layer up to half the depth.
std::vector<std::vector<std::string>> block_rows(const Profile& profile) {
  std::vector<std::vector<std::string>> rows{{"layers", "most similar block", "angular distance"}};
  for (std::int64_t n = 1; n <= std::max<std::int64_t>(1, profile.depth / 2); ++n) {
    const std::int64_t first = most_similar_block(profile, n);
    std::vector<std::int64_t> block;
    for (std::int64_t l = first; l < first + n; ++l) block.push_back(l);
    rows.push_back(
        {fmt::format("{}", n), layer_ranges(block),
         fmt::format("{:.4f}",
                     profile.angular[static_cast<std::size_t>(n - 1)][static_cast<std::size_t>(first)])});
  }
  return rows;
}

std::vector<std::vector<std::string>> visit_rows(const Profile& profile) {
  std::vector<std::vector<std::string>> rows{
      {"layer", "influence", "attention p10", "median", "p90", "ffn p10", "median", "p90"}};
  const auto number = [](double value) { return fmt::format("{:.3f}", value); };
  for (std::size_t l = 0; l < profile.block_influence.size(); ++l) {
    const ResidualRatio &attention = profile.attention[l], &ffn = profile.ffn[l];
    rows.push_back({fmt::format("{}", l), number(profile.block_influence[l]), number(attention.p10),
                    number(attention.median), number(attention.p90), number(ffn.p10), number(ffn.median),
                    number(ffn.p90)});
  }
  return rows;
}

void print_table(std::FILE* where, const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("{:>{}}  ", row[i], widths[i]);
    fmt::print(where, "{}\n", line.substr(0, line.find_last_not_of(' ') + 1));
  }
}

constexpr const char* influence_text =
    "Influence: 1 - mean cosine of a layer's input and output. Attention, ffn: length of what the branch "
    "adds, by the length of the sum.";

std::string html_page(const Profile& profile, const std::string& model, const std::string& origin) {
  HtmlPage page("Depth profile of " + model,
                fmt::format("{} layers, measured on {} tokens of {} in windows of {}.", profile.depth,
                            profile.tokens, origin, profile.context));
  page.heading("Similarity");
  page.picture(svg_heat_map("Angular distance across a block", "first layer of the block",
                            "layers in the block", profile.angular),
               "0: the block's input and output point the same way and it might be dropped; 0.5: orthogonal. "
               "Row n, column l: the block of n layers from layer l.");
  page.table(block_rows(profile));
  page.heading("Contribution of each layer");
  std::vector<double> layers, attention, ffn;
  for (std::size_t l = 0; l < profile.block_influence.size(); ++l) {
    layers.push_back(static_cast<double>(l));
    attention.push_back(profile.attention[l].median);
    ffn.push_back(profile.ffn[l].median);
  }
  page.picture(
      svg_bars("Block influence", "layer", "1 - cosine", {{"influence", layers, profile.block_influence}}),
      "How much a layer turns the residual stream (ShortGPT).");
  page.picture(svg_bars("Residual ratio", "layer", "median ratio",
                        {{"attention", layers, attention}, {"ffn", layers, ffn}}),
               "How long what a branch adds is, by the length of the sum.");
  page.table(visit_rows(profile));
  return page.str();
}

void run(ProfileVerbOptions& options) {
  const Checkpoint checkpoint = load_checkpoint(options.model);
  const MeasuringText text = measuring_text(checkpoint, options, options.profile.max_tokens, options.seed);
  options.profile.bos = text.bos;
  const Profile profile = about(options.text.empty() ? options.model : options.text,
                                [&] { return profile_depth(checkpoint, text.ids, options.profile); });
  if (options.json != "-") {
    print_table(stdout, visit_rows(profile));
    fmt::print("{}\n\n", influence_text);
    print_table(stdout, block_rows(profile));
  }
  if (!options.html.empty()) {
    const auto name = (options.model / "").parent_path().filename();  // of "models/x/", too
    write_file(options.html, html_page(profile, name.string(), text.origin));
  }
  emit_json(options, to_json(profile));
}

}  // namespace

void add_profile(CLI::App& program) {
  auto options = std::make_shared<ProfileVerbOptions>();
  CLI::App* verb = program.add_subcommand("profile", "What each layer contributes on a text");
  verb->add_option("MODEL", options->model, "Directory (Hugging Face, Fathom) or GGUF file")->required();
  verb->add_option("--text", options->text, "Text to measure on; without it the model's own samples")
      ->type_name("FILE");
  add_text_format(*verb, options->text_format);
  verb->add_option("--tokens", options->profile.max_tokens, "Tokens to measure on")
      ->check(CLI::Range(1, most_measuring_tokens))
      ->capture_default_str();
  verb->add_option("--context", options->profile.context, "Tokens in a window")
      ->check(at_least(1))
      ->capture_default_str();
  verb->add_flag("--last-token", options->profile.last_token_only,
                 "Angular distance at each window's last token alone, as in the paper");
  verb->add_option("--html", options->html, "Write the heat map and the tables as one page")
      ->type_name("FILE");
  add_common(*verb, *options, true);
  verb->footer("Example:\n  fathom profile models/smollm2.gguf --text wiki.txt --html profile.html");
  verb->callback([options] {
    apply_common(*options);
    run(*options);
  });
}

}  // namespace fathom
