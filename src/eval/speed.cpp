#include "eval/speed.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/interrupt.h"

namespace fathom {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Token most_probable(const Engine& engine, const std::vector<float>& hidden, std::vector<float>& logits) {
  engine.head(1, hidden.data(), logits.data());
  return static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace

Speed measure_speed(Engine& engine, std::int64_t prompt_tokens, std::int64_t generated_tokens) {
  const std::int64_t half = std::max<std::int64_t>(1, engine.max_context() / 2);
  Speed speed{std::min(prompt_tokens, half), std::min(generated_tokens, half)};
  const std::int64_t vocab = engine.config().vocab_size;
  // Which tokens they are does not matter to the speed; a stride keeps them from being neighbours.
  std::vector<Token> prompt;
  for (std::int64_t i = 0; i < speed.prompt_tokens; ++i)
    prompt.push_back(static_cast<Token>(i * 7919 % vocab));
  std::vector<float> logits(static_cast<std::size_t>(vocab)), hidden;

  const int sequence = engine.open();
  for (int run = 0; run < 2; ++run) {
    check_interrupt();
    engine.truncate(sequence, 0);
    const auto start = std::chrono::steady_clock::now();
    const Feed feed{sequence, prompt, 1};
    hidden = engine.forward({&feed, 1});
    speed.prompt = std::max(speed.prompt, static_cast<double>(speed.prompt_tokens) / seconds_since(start));
  }
  Token next = most_probable(engine, hidden, logits);
  const auto start = std::chrono::steady_clock::now();
  for (std::int64_t i = 0; i < speed.generated_tokens; ++i) {
    check_interrupt();
    const Feed feed{sequence, {&next, 1}, 1};
    hidden = engine.forward({&feed, 1});
    next = most_probable(engine, hidden, logits);
  }
  speed.generate = static_cast<double>(speed.generated_tokens) / seconds_since(start);
  engine.close(sequence);
  return speed;
}

Json to_json(const Speed& speed) {
  return {{"prompt", speed.prompt},
          {"generate", speed.generate},
          {"prompt_tokens", speed.prompt_tokens},
          {"generated_tokens", speed.generated_tokens}};
}

}  // namespace fathom
