// How fast a model runs here, in the terms of llama-bench: prompts of several tokens at once, and tokens
// generated one by one, after a context and for several sequences side by side.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/progress.h"
#include "runtime/decoder.h"
#include "runtime/engine.h"

namespace fathom {

enum class Phase { prompt, generate };

/// `tokens` for each of `batch` sequences that hold `depth` tokens already. Generation's sequences are in
/// `groups` that begin one after another, a part of the model's depth apart: with two groups and a model that
/// loops twice, one half of the rows is always a loop ahead of the other (continuous depth-wise batching, Bae
/// et al. 2025).
struct Workload {
  Phase phase = Phase::prompt;
  std::int64_t tokens = 0, depth = 0, batch = 1, groups = 1;

  std::int64_t context() const { return depth + tokens; }  ///< positions that a sequence needs
  std::int64_t total() const { return tokens * batch; }
  std::string name() const;  ///< "pp512", "tg128 @ d4096", "tg64 @ d128 b16 g2"
};

/// Seconds of each of `repetitions` runs, after one that is not counted. A prompt goes through in one batch,
/// up to the most probable next token of each sequence; generation is greedy, one token of each sequence a
/// step, head included, as `options` say; `counts` then are the last run's. `progress` advances by tokens.
/// Throws Error when the context is too short, Interrupted.
std::vector<double> time_workload(Engine& engine, const Workload& work, int repetitions,
                                  Progress* progress = nullptr, const DecoderOptions& options = {},
                                  Decoder::Counts* counts = nullptr);

/// What repetitions give: a mean with the sample's standard deviation (0 of one value), and order statistics.
struct Spread {
  double mean = 0, deviation = 0, min = 0, median = 0, max = 0;
};
Spread spread_of(std::vector<double> values);

struct Speed {
  std::int64_t prompt_tokens = 0, generated_tokens = 0;  ///< how many were measured
  double prompt = 0, generate = 0;                       ///< tokens per second, medians
};

/// Both phases of one sequence: a prompt, then what is generated after it. Both are cut to half of the
/// model's context where that is shorter.
Speed measure_speed(Engine& engine, std::int64_t prompt_tokens = 512, std::int64_t generated_tokens = 64,
                    int repetitions = 3);

/// {"prompt", "generate", "prompt_tokens", "generated_tokens"}
Json to_json(const Speed& speed);

}  // namespace fathom
