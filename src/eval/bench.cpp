#include "eval/bench.h"

#include <algorithm>

#include "base/process.h"

namespace fathom {
namespace {

/// Entries of the cache that tokens at positions [first, first + count) see, all together.
double seen(std::int64_t window, std::int64_t first, std::int64_t count) {
  double sum = 0;
  for (std::int64_t p = first; p < first + count; ++p)
    sum += static_cast<double>(window > 0 ? std::min(window, p + 1) : p + 1);
  return sum;
}

}  // namespace

Cost cost_of(const Workload& work, const Checkpoint& checkpoint, const Engine& engine) {
  const ModelConfig& config = checkpoint.config;
  const bool prompt = work.phase == Phase::prompt;
  const auto steps = static_cast<double>(prompt ? 1 : work.tokens), batch = static_cast<double>(work.batch);
  double scores = 0,
         entries = 0;  // of one sequence at all visits: pairs of a token and one it sees; entries read
  for (const Visit& visit : checkpoint.plan.visits) {
    const std::int64_t window = config.attention_types[static_cast<std::size_t>(visit.type)].window;
    scores += seen(window, work.depth, work.tokens);
    // A prompt's tokens share what they read; in generation each step reads anew.
    entries += prompt ? static_cast<double>(window > 0 ? std::min(window + work.tokens - 1, work.context())
                                                       : work.context())
                      : seen(window, work.depth, work.tokens);
  }
  const auto unrolled = static_cast<double>(count_parameters(checkpoint).unrolled);
  const auto head = static_cast<double>(config.hidden_size * config.vocab_size);
  const auto width = static_cast<double>(config.heads * config.head_dim);
  return {.bytes = steps * static_cast<double>(engine.weight_bytes()) +
                   batch * entries * static_cast<double>(engine.kv_bytes()),
          .operations = batch * (2 * unrolled * static_cast<double>(work.tokens) + 2 * head * steps +
                                 4 * width * scores)};
}

bool BenchResult::bound_by_reading() const { return read / read_ceiling > operations / product_ceiling.rate; }

double BenchResult::share() const {
  return bound_by_reading() ? read / read_ceiling : operations / product_ceiling.rate;
}

BenchResult bench(Engine& engine, const Checkpoint& checkpoint, Operand operand, const Workload& work,
                  const DecoderOptions& options, int repetitions, Progress& progress) {
  BenchResult result;
  result.work = work;
  result.read_ceiling = read_ceiling();
  result.product_ceiling = product_ceiling(operand);
  reset_peak_memory();  // the ceiling's own memory is free again
  const std::vector<double> seconds =
      time_workload(engine, work, repetitions, &progress, options, &result.counts);
  result.peak_memory = peak_memory();
  result.read_ceiling = std::max(result.read_ceiling, read_ceiling());
  result.product_ceiling.rate = std::max(result.product_ceiling.rate, product_ceiling(operand).rate);

  for (const double s : seconds) result.samples.push_back(static_cast<double>(work.total()) / s);
  result.rate = spread_of(result.samples);
  const double mean = spread_of(seconds).mean;
  const Cost cost = cost_of(work, checkpoint, engine);
  result.read = cost.bytes / mean;
  result.operations = cost.operations / mean;
  return result;
}

double exit_bound(const Checkpoint& checkpoint, double visits, double heads) {
  const auto head = static_cast<double>(checkpoint.config.hidden_size * checkpoint.config.vocab_size);
  const auto all = static_cast<double>(count_parameters(checkpoint).unrolled);
  return (head + all) / (heads * head + visits / static_cast<double>(checkpoint.plan.depth()) * all);
}

Json to_json(const BenchResult& result) {
  return {{"test", result.work.name()},
          {"phase", result.work.phase == Phase::prompt ? "prompt" : "generate"},
          {"tokens", result.work.tokens},
          {"depth", result.work.depth},
          {"batch", result.work.batch},
          {"groups", result.work.groups},
          {"tokens_per_second", result.rate.mean},
          {"deviation", result.rate.deviation},
          {"min", result.rate.min},
          {"median", result.rate.median},
          {"max", result.rate.max},
          {"samples", result.samples},
          {"bytes_per_second", result.read},
          {"operations_per_second", result.operations},
          {"read_ceiling", result.read_ceiling},
          {"product_ceiling", result.product_ceiling.rate},
          {"product_unit", result.product_ceiling.unit},
          {"share_of_ceiling", result.share()},
          {"peak_memory", result.peak_memory}};
}

}  // namespace fathom
