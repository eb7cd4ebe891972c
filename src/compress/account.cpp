#include <fmt/format.h>

#include "base/progress.h"
#include "compress/compress.h"

namespace fathom {
namespace {

struct Column {
  std::string title;
  const Json* figures;
};

std::vector<Column> columns_of(const Json& account) {
  std::vector<Column> columns = {{"original", &account["before"]}};
  for (const Json& candidate : account["candidates"]) {
    const auto method = candidate["method"].get<std::string>();
    for (const char* stage : {"cut", "repaired", "trained"})
      if (candidate.contains(stage)) columns.push_back({method + ", " + stage, &candidate[stage]});
  }
  return columns;
}

std::string perplexity_text(double perplexity) {
  return perplexity < 1e4 ? fmt::format("{:.2f}", perplexity) : fmt::format("{:.3g}", perplexity);
}

/// Only the original and trained models are timed: a cut one is as fast as what becomes of it.
std::string speed_text(const Json& figures, const char* phase, int decimals) {
  return figures.contains("speed") ? fmt::format("{:.{}f}", figures["speed"][phase].get<double>(), decimals)
                                   : "";
}

}  // namespace

std::vector<std::vector<std::string>> account_rows(const Json& account) {
  const double full = account["before"]["non_embedding"].get<double>();
  std::vector<std::vector<std::string>> rows = {{""},
                                                {"parameters"},
                                                {"without embeddings"},
                                                {"  of the original"},
                                                {"weights as bf16"},
                                                {"perplexity"},
                                                {"  standard error"},
                                                {"prompt tokens/s"},
                                                {"generated tokens/s"}};
  for (const auto& [title, figures] : columns_of(account)) {
    const Json& f = *figures;
    const std::vector<std::string> cells = {
        title,
        format_count(f["parameters"].get<std::int64_t>()),
        format_count(f["non_embedding"].get<std::int64_t>()),
        fmt::format("{:.1f}%", 100 * f["non_embedding"].get<double>() / full),
        format_bytes(f["bf16_bytes"].get<std::int64_t>()),
        perplexity_text(f["perplexity"].get<double>()),
        perplexity_text(f["perplexity_stderr"].get<double>()),
        speed_text(f, "prompt", 0),
        speed_text(f, "generate", 1)};
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i].push_back(cells[i]);
  }
  return rows;
}

std::string account_table(const Json& account) {
  const auto rows = account_rows(account);
  std::vector<std::size_t> width(rows[0].size());
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  }
  std::string text;
  for (const auto& row : rows) {
    text += fmt::format("{:<{}}", row[0], width[0]);
    for (std::size_t c = 1; c < row.size(); ++c) text += fmt::format("  {:>{}}", row[c], width[c]);
    text += "\n";
  }
  for (const Json& candidate : account["candidates"]) {
    const auto method = candidate["method"].get<std::string>(), what = candidate["what"].get<std::string>();
    text += candidate.contains("trained")
                ? fmt::format("{}: {}; {:.0f}% of the lost log-perplexity was won back\n", method, what,
                              100 * candidate["recovered"].get<double>())
                : fmt::format("{}: {}; not trained, since it was {:.2f} nats behind\n", method, what,
                              candidate["behind"].get<double>());
  }
  text += fmt::format("Kept: {}. Perplexity is over {} tokens of {}.\n", account["chosen"].get<std::string>(),
                      account["before"]["tokens"].get<std::int64_t>(),
                      account["data"]["eval"].get<std::string>());
  return text;
}

}  // namespace fathom
