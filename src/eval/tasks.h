// Multiple-choice sets and LAMBADA, in the convention of EleutherAI's lm-evaluation-harness.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "eval/choices.h"
#include "runtime/engine.h"
#include "text/tokenizer.h"

namespace fathom {

/// How long a choice is, without the space before it.
struct ChoiceLength {
  std::int64_t characters = 0;  ///< code points, as Python counts
  std::int64_t bytes = 0;       ///< in UTF-8
};

/// One row of a set: what is scored, and which of the scores should be the highest.
struct Example {
  std::vector<Query> queries;  ///< one with all choices, or (winogrande) one continuation after each context
  std::vector<ChoiceLength> lengths;  ///< of the choices; empty where they do not differ
  std::int64_t gold = 0;
};

/// What the model said about an example: a log-likelihood (nats) for each choice.
struct Sample {
  std::vector<double> log_likelihoods;
  std::int64_t gold = 0, predicted = 0;
  bool correct = false;
};

struct TaskResult {
  std::string task;
  std::int64_t examples = 0;
  double acc = 0, acc_stderr = 0;
  /// With log-likelihoods divided by the choice's characters, as lm-eval's acc_norm, or by its bytes, as
  /// lm-eval's acc_bytes; equal to acc where there is nothing to divide by (winogrande, lambada).
  double acc_norm = 0, acc_bytes = 0;
  double perplexity = 0;  ///< of LAMBADA's last word; 0 elsewhere
  std::vector<Sample> samples;
};

/// Names that `run_task` knows: hellaswag, arc_easy, arc_challenge, piqa, openbookqa, boolq, winogrande,
/// lambada_openai, mmlu.
std::vector<std::string> task_names();

/// Reads DATA/NAME.jsonl (mmlu: mmlu_test.jsonl and mmlu_dev.jsonl, 5 shots). `limit` 0: all examples, else
/// the first so many. Throws Error naming file, line and field; UsageError for an unknown name.
std::vector<Example> read_task(const std::string& name, const std::filesystem::path& data,
                               std::int64_t limit);

/// Scores every example of read_task. Shows a progress bar.
TaskResult run_task(Engine& engine, const Tokenizer& tokenizer, const std::string& name,
                    const std::filesystem::path& data, std::int64_t limit);

/// The figures, without the samples.
Json to_json(const TaskResult& result);

}  // namespace fathom
