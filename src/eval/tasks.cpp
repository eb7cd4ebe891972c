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

/// By log-likelihood for each unit of length; an empty choice is never the most likely.
std::int64_t most_likely_by(std::int64_t ChoiceLength::*unit, const Example& example,
                            std::vector<double> log_likelihoods) {
  for (std::size_t i = 0; i < example.lengths.size(); ++i)
    log_likelihoods[i] /= static_cast<double>(example.lengths[i].*unit);
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
    const auto correct_by = [&](std::int64_t ChoiceLength::*unit) {
      return example.lengths.empty() ? sample.correct
                                     : most_likely_by(unit, example, sample.log_likelihoods) == example.gold;
    };
    result.acc += sample.correct;
    result.acc_norm += correct_by(&ChoiceLength::characters);
    result.acc_bytes += correct_by(&ChoiceLength::bytes);
    if (!choice) nll -= sample.log_likelihoods.front();
    result.samples.push_back(std::move(sample));
  }
  const auto count = static_cast<double>(examples.size());
  result.acc /= count;
  result.acc_norm /= count;
  result.acc_bytes /= count;
  result.acc_stderr = count > 1 ? std::sqrt(result.acc * (1 - result.acc) / (count - 1)) : 0;
  if (nll > 0) result.perplexity = std::exp(nll / count);
  return result;
}

Json to_json(const TaskResult& result) {
  Json json = {{"examples", result.examples},
               {"acc", result.acc},
               {"acc_stderr", result.acc_stderr},
               {"acc_norm", result.acc_norm},
               {"acc_bytes", result.acc_bytes}};
  if (result.perplexity > 0) json["perplexity"] = result.perplexity;
  return json;
}

}  // namespace fathom
