#include "eval/exits.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "measure/windows.h"
#include "runtime/lm_head.h"

namespace fathom {
namespace {

/// A window that is read token by token.
struct Reading {
  std::vector<Token> input, targets;
  std::vector<Token> best;  ///< after each token, at full depth
  std::size_t read = 0;
  double loss = 0;
  std::int64_t visits = 0, agreed = 0;

  std::optional<Token> next(const Prediction& prediction) {
    const RowSummary head = summary_of(prediction.logits);
    loss -= prediction.logits[static_cast<std::size_t>(targets[read])] - head.log_sum_exp;
    visits += prediction.visits;
    agreed += head.best == best[read] ? 1 : 0;
    if (++read == targets.size()) return {};
    return input[read];
  }
};

/// All windows, with what full depth says of them.
std::vector<Reading> readings_of(Engine& engine, const TextWindows& windows) {
  std::vector<Reading> readings;
  for (std::int64_t i = 0; i < windows.batches(); ++i) {
    check_interrupt();
    const WindowBatch batch = windows.batch(i);
    const std::vector<float> hidden = forward(engine, batch);
    std::vector<float> none;
    const auto heads = engine.head().summarise(std::ssize(batch.targets), hidden.data(), {}, none);
    const std::size_t each = batch.targets.size() / batch.inputs.size();
    for (std::size_t w = 0; w < batch.inputs.size(); ++w) {
      Reading& reading = readings.emplace_back();
      reading.input = batch.inputs[w];
      for (std::size_t t = w * each; t < (w + 1) * each; ++t) {
        reading.targets.push_back(batch.targets[t].token);
        reading.best.push_back(static_cast<Token>(heads[t].best));
      }
    }
  }
  return readings;
}

ExitQuality quality_of(Engine& engine, std::vector<Reading> readings, DecoderOptions options,
                       Progress& progress) {
  constexpr std::size_t together = 32;
  for (std::size_t first = 0; first < readings.size(); first += together) {
    const auto some = std::span(readings).subspan(first, std::min(together, readings.size() - first));
    std::vector<int> sequences;
    options.full_depth = [&](int sequence, std::int64_t position) {
      const auto found = std::ranges::find(sequences, sequence);
      return some[static_cast<std::size_t>(found - sequences.begin())]
          .best[static_cast<std::size_t>(position)];
    };
    {
      Decoder decoder(engine, options);
      for (Reading& reading : some) {
        sequences.push_back(engine.open());
        decoder.add(sequences.back(), std::span(reading.input).first(1),
                    [&reading](const Prediction& p) { return reading.next(p); });
      }
      while (decoder.step()) check_interrupt();
    }
    for (const int sequence : sequences) engine.close(sequence);
    progress.advance(std::ssize(some) * std::ssize(some.front().targets));
  }
  ExitQuality quality;
  std::vector<double> losses;
  double tokens = 0;
  for (const Reading& reading : readings) {
    const auto count = static_cast<double>(reading.targets.size());
    losses.push_back(reading.loss / count);
    tokens += count;
    quality.visits += static_cast<double>(reading.visits);
    quality.agreement += static_cast<double>(reading.agreed);
  }
  quality.visits /= tokens;
  quality.agreement /= tokens;
  quality.perplexity = perplexity_of(losses, std::ssize(readings.front().targets));
  return quality;
}

}  // namespace

ExitQuality exit_quality(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                         std::int64_t max_windows, const DecoderOptions& options) {
  const TextWindows windows(ids, context, bos, max_windows, engine.max_context());
  Progress progress("token by token", windows.predictions(), "tok");
  return quality_of(engine, readings_of(engine, windows), options, progress);
}

double calibrate_exit(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                      std::int64_t max_windows, const std::string& rule, ExitedKv policy, double agreement) {
  const auto kinds = exit_rule_kinds();
  const auto found = std::ranges::find(kinds, std::string_view(rule), &ExitRuleKind::name);
  if (found == kinds.end() || (*found)->loosest == (*found)->strictest)
    fail_usage(
        "--calibrate-exit finds the threshold of a rule that has one between two ends, such as "
        "--exit margin; --exit is '{}'",
        rule);
  const ExitRuleKind& kind = **found;
  const TextWindows windows(ids, context, bos, max_windows, engine.max_context());
  const std::vector<Reading> readings = readings_of(engine, windows);
  constexpr int steps = 10;  // of which each halves the range
  Progress progress("calibrating", steps * windows.predictions(), "tok");
  double loose = kind.loosest, strict = kind.strictest;
  for (int step = 0; step < steps; ++step) {
    const double threshold = (loose + strict) / 2;
    DecoderOptions options = {.exited_kv = policy};
    options.exit = parse_exit_rule(fmt::format("{}:{}", kind.name, threshold), engine.plan());
    const bool agrees = quality_of(engine, readings, options, progress).agreement >= agreement;
    (agrees ? strict : loose) = threshold;
  }
  return strict;
}

}  // namespace fathom
