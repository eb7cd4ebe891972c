#include "runtime/generate.h"

#include <algorithm>
#include <cassert>
#include <chrono>
#include <utility>

#include "base/error.h"
#include "base/interrupt.h"

namespace fathom {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void check_prompt(const Engine& engine, std::span<const Token> prompt) {
  if (prompt.empty()) fail_usage("the prompt is empty");
  if (std::ssize(prompt) > engine.max_context())
    fail("the prompt has {} tokens, but the context takes {}; shorten it, or raise --context or --kv-memory",
         prompt.size(), engine.max_context());
}

}  // namespace

std::string_view to_string(StopReason reason) {
  switch (reason) {
    case StopReason::end_of_text:
      return "end_of_text";
    case StopReason::stop_string:
      return "stop_string";
    case StopReason::max_tokens:
      return "max_tokens";
    case StopReason::context_full:
      return "context_full";
    case StopReason::interrupted:
      return "interrupted";
  }
  return "unknown";
}

StopFilter::StopFilter(std::vector<std::string> stops) : stops_(std::move(stops)) {
  if (std::ranges::any_of(stops_, &std::string::empty)) fail_usage("a stop string is empty");
}

std::string StopFilter::push(std::string_view piece) {
  held_ += piece;
  std::size_t cut = std::string::npos;
  for (const std::string& stop : stops_) cut = std::min(cut, held_.find(stop));
  if (cut != std::string::npos) {
    stopped_ = true;
    std::string text = held_.substr(0, cut);
    held_.clear();
    return text;
  }
  // The longest end of the text with which a stop string may begin stays.
  std::size_t keep = 0;
  for (const std::string& stop : stops_)
    for (std::size_t size = std::min(stop.size() - 1, held_.size()); size > keep; size--)
      if (held_.ends_with(std::string_view(stop).substr(0, size))) keep = size;
  std::string text = held_.substr(0, held_.size() - keep);
  held_.erase(0, text.size());
  return text;
}

Generated generate(Engine& engine, const Tokenizer& tokenizer, int sequence, std::span<const Token> prompt,
                   const GenerateOptions& options,
                   const std::function<void(std::string_view text, std::int64_t visits)>& stream) {
  check_prompt(engine, prompt);
  assert(engine.length(sequence) < std::ssize(prompt));
  Sampler sampler(options.sampler);
  StopFilter filter(options.stop);
  StreamDecoder decoder(tokenizer, prompt);
  Generated result;
  const auto emit = [&](const std::string& text, std::int64_t visits) {
    if (text.empty()) return;
    result.text += text;
    if (stream) stream(text, visits);
  };
  const auto is_end = [&](Token token) {
    return !options.ignore_end &&
           std::ranges::find(tokenizer.end_tokens(), token) != tokenizer.end_tokens().end();
  };

  const auto fresh = prompt.subspan(static_cast<std::size_t>(engine.length(sequence)));
  std::vector<Token> seen(prompt.begin(), prompt.end());
  result.prompt_tokens = std::ssize(fresh);
  auto start = std::chrono::steady_clock::now();
  const auto token_after = [&](const Prediction& prediction) -> std::optional<StopReason> {
    if (options.max_tokens >= 0 && std::ssize(result.tokens) >= options.max_tokens)
      return StopReason::max_tokens;
    const Token token = sampler.pick(prediction.logits, seen);
    result.tokens.push_back(token);
    result.visits.push_back(prediction.visits);
    seen.push_back(token);
    if (is_end(token)) return StopReason::end_of_text;
    emit(filter.push(decoder.push(token)), prediction.visits);
    if (filter.stopped()) return StopReason::stop_string;
    if (options.max_tokens >= 0 && std::ssize(result.tokens) >= options.max_tokens)
      return StopReason::max_tokens;
    // The last token sampled waits to be fed.
    if (std::ssize(seen) > engine.max_context()) return StopReason::context_full;
    return {};
  };
  std::optional<StopReason> reason;
  const auto choose = [&](const Prediction& prediction) -> std::optional<Token> {
    if (result.prompt_seconds == 0)
      result.prompt_seconds = seconds_since(std::exchange(start, std::chrono::steady_clock::now()));
    reason = token_after(prediction);
    if (reason) return {};
    return result.tokens.back();
  };
  Decoder loop(engine, options.decoder);
  loop.add(sequence, fresh, choose);
  while (!interrupted() && loop.step()) {
  }
  result.reason = reason.value_or(StopReason::interrupted);
  result.counts = loop.counts();
  const std::int64_t visits = result.visits.empty() ? 0 : result.visits.back();
  if (!filter.stopped()) emit(filter.push(decoder.finish()), visits);
  if (!filter.stopped()) emit(filter.finish(), visits);
  (result.prompt_seconds == 0 ? result.prompt_seconds : result.generate_seconds) = seconds_since(start);
  return result;
}

}  // namespace fathom
