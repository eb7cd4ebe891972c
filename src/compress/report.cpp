#include <fmt/format.h>

#include <limits>

#include "base/progress.h"
#include "compress/compress.h"
#include "report/html.h"

namespace fathom {
namespace {

/// JSON has no NaN: a missing cell is null.
std::vector<std::vector<double>> matrix_of(const Json& json) {
  std::vector<std::vector<double>> rows;
  for (const Json& row : json) {
    auto& values = rows.emplace_back();
    for (const Json& cell : row)
      values.push_back(cell.is_number() ? cell.get<double>() : std::numeric_limits<double>::quiet_NaN());
  }
  return rows;
}

/// One value of every entry of a list, over its index.
Series series_of(const std::string& name, const Json& list, const char* key = nullptr) {
  Series series{name, {}, {}};
  for (const Json& entry : list) {
    series.x.push_back(static_cast<double>(series.x.size()));
    series.y.push_back(key != nullptr ? entry[key].get<double>() : entry.get<double>());
  }
  return series;
}

Series curve_of(const Json& candidate) {
  Series series{candidate["method"].get<std::string>(), {}, {}};
  for (const Json& step : candidate["curve"]) {
    series.x.push_back(step["tokens"].get<double>());
    series.y.push_back(step["loss"].get<double>());
  }
  return series;
}

std::string loss_in_words(const Json& account, const Json& candidate) {
  const auto perplexity = [&](const char* stage) { return candidate[stage]["perplexity"].get<double>(); };
  const double before = account["before"]["perplexity"];
  std::string text = fmt::format("{}: {} ({}). Perplexity went from {:.2f} to {:.4g} by the cut",
                                 candidate["method"].get<std::string>(), candidate["what"].get<std::string>(),
                                 candidate["why"].get<std::string>(), before, perplexity("cut"));
  if (candidate.contains("repaired"))
    text += fmt::format(", back to {:.4g} by refitting what is left in closed form", perplexity("repaired"));
  if (!candidate.contains("trained"))
    return text + fmt::format("; it was not trained, since it was {:.2f} nats behind.",
                              candidate["behind"].get<double>());
  return text + fmt::format(
                    ", and to {:.2f} by training: {:.0f}% of the lost log-perplexity was won back; what is "
                    "still lacking is a factor of {:.2f}.",
                    perplexity("trained"), 100 * candidate["recovered"].get<double>(),
                    perplexity("trained") / before);
}

std::string machine_of(const Json& account) {
  const auto &backend = account["machine"]["backend"].get_ref<const std::string&>(),
             &trained = account["machine"]["trained_on"].get_ref<const std::string&>();
  return trained == backend ? backend : fmt::format("{}; trained and judged on {}", backend, trained);
}

}  // namespace

std::string account_report(const Json& account) {
  const Json& profile = account["profile"];
  HtmlPage page(
      "What depth cost",
      fmt::format("{}, made cheaper in depth by fathom {}: at most {:.0f}% of the parameters outside the "
                  "embeddings, {:.1f} minutes on {}.",
                  account["options"]["model"].get<std::string>(), account["version"].get<std::string>(),
                  100 * account["options"]["target"].get<double>(), account["minutes"].get<double>(),
                  machine_of(account)));
  page.heading("Before and after");
  page.table(account_rows(account));
  for (const Json& candidate : account["candidates"]) page.paragraph(loss_in_words(account, candidate));
  page.paragraph(
      fmt::format("Kept: {}. Perplexity is over {} tokens of {}; trained on {} ({} tokens). Speeds are those "
                  "of this machine at this hour.",
                  account["chosen"].get<std::string>(), account["before"]["tokens"].get<std::int64_t>(),
                  account["data"]["eval"].get<std::string>(), account["data"]["train"].get<std::string>(),
                  format_count(account["data"]["train_tokens"].get<std::int64_t>())));

  page.heading("Which layers matter");
  page.picture(svg_heat_map("Angular distance across a block of layers", "first layer of the block",
                            "layers in the block", matrix_of(profile.at("angular_distance"))),
               "How far a block of layers turns the hidden state: 0 = it could be dropped and nothing would "
               "be noticed, 1 = reversed "
               "(Gromov et al. 2024). Every start and length.");
  page.picture(svg_bars("Block influence", "layer", "1 - cosine of input and output",
                        {series_of("influence", profile.at("block_influence"))}),
               "How much each layer changes the direction of the hidden state (ShortGPT, Men et al. 2024).");
  page.picture(svg_bars("Residual contributions", "layer", "median of |f(x)| / |x + f(x)|",
                        {series_of("attention", profile.at("attention_ratio"), "median"),
                         series_of("feed-forward", profile.at("ffn_ratio"), "median")}),
               "What each residual branch adds, relative to the stream it adds to (Dotzel et al. 2024).");

  page.heading("Training");
  std::vector<Series> curves;
  for (const Json& candidate : account["candidates"])
    if (candidate.contains("trained")) curves.push_back(curve_of(candidate));
  page.picture(svg_noisy_lines("Distillation loss", "tokens", "KL(original, student), nats", curves),
               "Forward KL divergence from the original on the training text, step by step; each step is "
               "another text.");

  page.heading("Samples");
  page.paragraph("Greedy continuations, as they came.");
  for (std::size_t i = 0; i < account["before"]["samples"].size(); ++i) {
    std::vector<std::pair<std::string, std::string>> texts;
    const auto add = [&](const std::string& title, const Json& figures) {
      const Json& sample = figures["samples"][i];
      texts.emplace_back(title, sample["prompt"].get<std::string>() + sample["text"].get<std::string>());
    };
    add("original", account["before"]);
    for (const Json& candidate : account["candidates"]) {
      for (const char* stage : {"cut", "repaired", "trained"})
        if (candidate.contains(stage) && candidate[stage].contains("samples"))
          add(fmt::format("{}, {}", candidate["method"].get<std::string>(), stage), candidate[stage]);
    }
    page.columns(texts);
  }
  return page.str();
}

}  // namespace fathom
