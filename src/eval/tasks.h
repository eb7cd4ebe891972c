// Multiple-choice sets and LAMBADA, in the convention of EleutherAI's lm-evaluation-harness.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/tokenizer.h"
#include "runtime/engine.h"

namespace fathom {

struct TaskResult {
  std::string task;
  std::int64_t examples = 0;
  double acc = 0, acc_stderr = 0;
  double acc_norm = 0;    ///< by bytes of the choice; equal to acc where there is none (winogrande, lambada)
  double perplexity = 0;  ///< of LAMBADA's last word; 0 elsewhere
};

/// Names that `run_task` knows: hellaswag, arc_easy, arc_challenge, piqa, openbookqa, boolq, winogrande,
/// lambada_openai, mmlu.
std::vector<std::string> task_names();

/// Reads DATA/NAME.jsonl (mmlu: mmlu_test.jsonl and mmlu_dev.jsonl, 5 shots). `limit` 0: all examples, else
/// the first so many. Throws Error naming file, line and field; UsageError for an unknown name.
TaskResult run_task(Engine& engine, const Tokenizer& tokenizer, const std::string& name,
                    const std::filesystem::path& data, std::int64_t limit);

Json to_json(const TaskResult& result);

}  // namespace fathom
