#include "compress/judge.h"

#include <string>

#include "base/interrupt.h"
#include "eval/speed.h"
#include "measure/perplexity.h"
#include "measure/windows.h"
#include "runtime/generate.h"
#include "train/step/sequence_losses.h"

namespace fathom {
namespace {

constexpr std::int64_t sample_tokens = 48;
const std::vector<std::string> sample_prompts = {"The capital of France is", "Water boils when",
                                                 "Once upon a time, there was a"};

std::string continued(Engine& engine, const Tokenizer& tokenizer, const std::string& prompt) {
  const int sequence = engine.open();
  const Generated generated = generate(engine, tokenizer, sequence, tokenizer.encode_prompt(prompt),
                                       {.max_tokens = sample_tokens, .stop = {}, .sampler = {}}, nullptr);
  engine.close(sequence);
  check_interrupt();
  return generated.text;
}

/// The windows that measure/perplexity.h scores, as the trainer reads them.
std::vector<Sequence> sequences_of(const TextWindows& windows) {
  std::vector<Sequence> sequences;
  for (std::int64_t i = 0; i < windows.batches(); ++i) {
    const WindowBatch batch = windows.batch(i);
    auto target = batch.targets.begin();
    for (const auto& input : batch.inputs) {
      Sequence& sequence = sequences.emplace_back(Sequence{.inputs = input, .labels = {}, .starts = {0}});
      for (std::size_t row = 0; row < input.size(); ++row) sequence.labels.push_back((target++)->token);
    }
  }
  return sequences;
}

}  // namespace

std::int64_t judged_sample_tokens() { return std::ssize(sample_prompts) * sample_tokens; }

Json Judge::measure(const Checkpoint& model, Judged judged) const {
  Engine engine(model, {.compute = options_.compute});
  return measure(model, engine, judged);
}

Json Judge::measure(const Checkpoint& model, Engine& engine, Judged judged) const {
  const ParameterCount count = count_parameters(model);
  const auto& [context, windows, bos, repetitions, compute, device] = options_;
  Perplexity quality;
  if (device == Device::cpu) {
    quality = perplexity(engine, text_, context, bos, windows);
  } else {
    const auto sequences = sequences_of(TextWindows(text_, context, bos, windows, engine.max_context()));
    quality = perplexity_of(sequence_losses(model, sequences, /*bf16=*/true, device),
                            std::ssize(sequences.front().labels));
  }
  Json figures = {{"plan", model.plan.describe()},
                  {"parameters", count.embedding + count.non_embedding()},
                  {"non_embedding", count.non_embedding()},
                  {"bytes", count.bytes},
                  {"bf16_bytes", 2 * (count.embedding + count.non_embedding())},
                  {"nll", quality.nll},
                  {"nll_stderr", quality.error},
                  {"tokens", quality.tokens},
                  {"perplexity", quality.perplexity()},
                  {"perplexity_stderr", quality.perplexity_error()}};
  if (judged >= Judged::samples) {
    Json& samples = figures["samples"] = Json::array();
    for (const auto& prompt : sample_prompts)
      samples.push_back({{"prompt", prompt}, {"text", continued(engine, tokenizer_, prompt)}});
  }
  if (judged >= Judged::speed)
    figures["speed"] =
        to_json(measure_speed(engine, timed_prompt_tokens, timed_generated_tokens, repetitions));
  return figures;
}

}  // namespace fathom
