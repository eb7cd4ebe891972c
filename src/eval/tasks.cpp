#include "eval/tasks.h"

#include <algorithm>
#include <cmath>

#include "base/progress.h"

namespace fathom {
namespace {

/// The first of the largest.
std::int64_t index_of_largest(const std::vector<double>& values) {
  return std::max_element(values.begin(), values.end()) - values.begin();
}

std::int64_t most_likely_by_byte(const Example& example, std::vector<double> log_likelihoods) {
  for (std::size_t i = 0; i < example.bytes.size(); ++i)
    log_likelihoods[i] /= static_cast<double>(std::max<std::int64_t>(example.bytes[i], 1));
  return index_of_largest(log_likelihoods);
}

}  // namespace

TaskResult run_task(Engine& engine, const Tokenizer& tokenizer, const std::string& name,
                    const std::filesystem::path& data, std::int64_t limit) {
  const auto examples = read_task(name, data, limit);
  std::vector<Query> queries;
  for (const Example& example : examples)
    queries.insert(queries.end(), example.queries.begin(), example.queries.end());
  Progress progress(name, static_cast<std::int64_t>(queries.size()), "queries");
  const auto likelihoods =
      score_queries(engine, tokenizer, queries, [&](std::int64_t count) { progress.advance(count); });

  TaskResult result{.task = name, .examples = static_cast<std::int64_t>(examples.size()), .samples = {}};
  double nll = 0;
  auto answer = likelihoods.begin();
  for (const Example& example : examples) {
    Sample sample{.log_likelihoods = {}, .gold = example.gold};
    bool greedy = true;
    for (std::size_t q = 0; q < example.queries.size(); ++q, ++answer) {
      for (const Likelihood& likelihood : *answer) {
        sample.log_likelihoods.push_back(likelihood.log_likelihood);
        greedy = greedy && likelihood.greedy;
      }
    }
    sample.predicted = index_of_largest(sample.log_likelihoods);
    // Where there is nothing to choose from (LAMBADA), the model must have said it unasked.
    const bool choice = sample.log_likelihoods.size() > 1;
    sample.correct = choice ? sample.predicted == sample.gold : greedy;
    result.acc += sample.correct;
    result.acc_norm += example.bytes.empty()
                           ? sample.correct
                           : most_likely_by_byte(example, sample.log_likelihoods) == example.gold;
    if (!choice) nll -= sample.log_likelihoods.front();
    result.samples.push_back(std::move(sample));
  }
  const auto count = static_cast<double>(examples.size());
  result.acc /= count;
  result.acc_norm /= count;
  result.acc_stderr = count > 1 ? std::sqrt(result.acc * (1 - result.acc) / (count - 1)) : 0;
  if (nll > 0) result.perplexity = std::exp(nll / count);
  return result;
}

Json to_json(const TaskResult& result) {
  Json json = {{"examples", result.examples},
               {"acc", result.acc},
               {"acc_stderr", result.acc_stderr},
               {"acc_norm", result.acc_norm}};
  if (result.perplexity > 0) json["perplexity"] = result.perplexity;
  return json;
}

}  // namespace fathom
