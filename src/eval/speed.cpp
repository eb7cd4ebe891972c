#include "eval/speed.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "base/interrupt.h"
#include "runtime/lm_head.h"

namespace fathom {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// The sequences of a workload, which take in the same number of tokens each.
class Batch {
 public:
  Batch(Engine& engine, std::int64_t size) : engine_(engine) {
    for (std::int64_t i = 0; i < size; ++i) sequences_.push_back(engine.open());
  }
  ~Batch() {
    for (const int sequence : sequences_) engine_.close(sequence);
  }
  Batch(const Batch&) = delete;
  Batch& operator=(const Batch&) = delete;

  void truncate(std::int64_t length) {
    for (const int sequence : sequences_) engine_.truncate(sequence, length);
  }

  /// Each sequence takes in its run of `tokens` [batch, count], up to the most probable successor.
  void forward(std::span<const Token> tokens) {
    check_interrupt();
    const std::size_t count = tokens.size() / sequences_.size();
    std::vector<Feed> feeds;
    for (std::size_t i = 0; i < sequences_.size(); ++i)
      feeds.push_back({sequences_[i], tokens.subspan(i * count, count), 1});
    const std::vector<float> hidden = engine_.forward(feeds);
    engine_.head().summarise(std::ssize(sequences_), hidden.data(), {}, values_);
  }

  /// Each sequence generates `count` tokens greedily; `advance` is told of each. Sequence i is in group i %
  /// groups, and takes its next token in when the one before is through, whatever the others do.
  template <typename Advance>
  void generate(std::int64_t count, std::int64_t groups, const DecoderOptions& options, Advance advance) {
    Decoder decoder(engine_, options);
    const std::vector<Token> first = tokens(1);
    std::vector<std::int64_t> left(sequences_.size(), count);
    const auto add = [&](std::size_t i) {
      const auto choose = [&own = left[i]](const Prediction& prediction) -> std::optional<Token> {
        if (--own == 0) return {};
        return prediction.best;
      };
      decoder.add(sequences_[i], {&first[i], 1}, choose, Decoder::Wants::best);
    };
    std::int64_t known = 0;
    const std::int64_t all = count * std::ssize(left), depth = engine_.plan().depth();
    for (std::int64_t step = 0; known < all; ++step) {
      check_interrupt();
      for (std::size_t i = 0; i < sequences_.size(); ++i)
        if (step == static_cast<std::int64_t>(i) % groups * depth / groups) add(i);
      decoder.step();
      const std::int64_t done = all - std::accumulate(left.begin(), left.end(), std::int64_t{0});
      if (done > known) advance(done - std::exchange(known, done));
    }
    counts_ = decoder.counts();
  }
  const Decoder::Counts& counts() const { return counts_; }

  /// Some tokens: which they are does not matter to the speed; a stride keeps them from being neighbours.
  std::vector<Token> tokens(std::int64_t count) const {
    std::vector<Token> tokens(sequences_.size() * static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < tokens.size(); ++i)
      tokens[i] = static_cast<Token>(i * 7919 % static_cast<std::size_t>(engine_.config().vocab_size));
    return tokens;
  }

 private:
  Engine& engine_;
  std::vector<int> sequences_;
  std::vector<float> values_;  // none
  Decoder::Counts counts_;
};

}  // namespace

std::string Workload::name() const {
  std::string name = fmt::format("{}{}", phase == Phase::prompt ? "pp" : "tg", tokens);
  if (depth > 0 || batch > 1) name += " @";
  if (depth > 0) name += fmt::format(" d{}", depth);
  if (batch > 1) name += fmt::format(" b{}", batch);
  if (groups > 1) name += fmt::format(" g{}", groups);
  return name;
}

std::vector<double> time_workload(Engine& engine, const Workload& work, int repetitions, Progress* progress,
                                  const DecoderOptions& options, Decoder::Counts* counts) {
  Batch batch(engine, work.batch);
  if (work.depth > 0) batch.forward(batch.tokens(work.depth));
  const auto advance = [&](std::int64_t tokens) {
    if (progress != nullptr) progress->advance(tokens, work.name());
  };
  std::vector<double> seconds;
  for (int run = 0; run <= repetitions; ++run) {
    batch.truncate(work.depth);
    const auto start = std::chrono::steady_clock::now();
    if (work.phase == Phase::prompt) {
      batch.forward(batch.tokens(work.tokens));
      advance(work.total());
    } else {
      batch.generate(work.tokens, work.groups, options, advance);
    }
    if (run > 0) seconds.push_back(seconds_since(start));
  }
  if (counts != nullptr) *counts = batch.counts();
  return seconds;
}

Spread spread_of(std::vector<double> values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  const std::size_t count = values.size();
  Spread spread = {.min = values.front(),
                   .median = (values[(count - 1) / 2] + values[count / 2]) / 2,
                   .max = values.back()};
  spread.mean = std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(count);
  double squares = 0;
  for (const double value : values) squares += (value - spread.mean) * (value - spread.mean);
  if (count > 1) spread.deviation = std::sqrt(squares / static_cast<double>(count - 1));
  return spread;
}

Speed measure_speed(Engine& engine, std::int64_t prompt_tokens, std::int64_t generated_tokens,
                    int repetitions) {
  const std::int64_t half = std::max<std::int64_t>(1, engine.max_context() / 2);
  const Workload prompt = {Phase::prompt, std::min(prompt_tokens, half)};
  const Workload generate = {Phase::generate, std::min(generated_tokens, half), prompt.tokens};
  const auto rate = [&](const Workload& work) {
    return static_cast<double>(work.total()) / spread_of(time_workload(engine, work, repetitions)).median;
  };
  return {prompt.tokens, generate.tokens, rate(prompt), rate(generate)};
}

Json to_json(const Speed& speed) {
  return {{"prompt", speed.prompt},
          {"generate", speed.generate},
          {"prompt_tokens", speed.prompt_tokens},
          {"generated_tokens", speed.generated_tokens}};
}

}  // namespace fathom
