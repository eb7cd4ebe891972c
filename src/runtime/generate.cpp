#include "runtime/generate.h"

#include <algorithm>
#include <cassert>
#include <chrono>

#include "base/error.h"
#include "base/interrupt.h"

namespace fathom {
namespace {

// Of a prompt between looks at the interrupt flag: below a second on slow machines, and long enough for the
// matrix products to be efficient.
constexpr std::size_t prompt_chunk = 512;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Runs what is new of the prompt and returns the last token's hidden state; nothing when a signal came.
std::vector<float> run_prompt(Engine& engine, int sequence, std::span<const Token> prompt) {
  std::vector<float> hidden;
  for (std::size_t at = 0; at < prompt.size() && !interrupted(); at += prompt_chunk) {
    const std::size_t count = std::min(prompt_chunk, prompt.size() - at);
    const bool last = at + count == prompt.size();
    const Feed feed{sequence, prompt.subspan(at, count), last ? 1 : 0};
    hidden = engine.forward(std::span(&feed, 1));
  }
  return interrupted() ? std::vector<float>() : hidden;
}

void check_prompt(const Engine& engine, std::span<const Token> prompt) {
  if (prompt.empty()) fail_usage("the prompt is empty");
  if (std::ssize(prompt) > engine.max_context())
    fail("the prompt has {} tokens, but the context takes {}; shorten it or raise --context", prompt.size(),
         engine.max_context());
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
                   const GenerateOptions& options, const std::function<void(std::string_view)>& stream) {
  check_prompt(engine, prompt);
  assert(engine.length(sequence) < std::ssize(prompt));
  Sampler sampler(options.sampler);
  StopFilter filter(options.stop);
  StreamDecoder decoder(tokenizer, prompt);
  Generated result;
  const auto emit = [&](const std::string& text) {
    if (text.empty()) return;
    result.text += text;
    if (stream) stream(text);
  };
  const auto is_end = [&](Token token) {
    return !options.ignore_end &&
           std::ranges::find(tokenizer.end_tokens(), token) != tokenizer.end_tokens().end();
  };

  auto start = std::chrono::steady_clock::now();
  const auto fresh = prompt.subspan(static_cast<std::size_t>(engine.length(sequence)));
  std::vector<float> hidden = run_prompt(engine, sequence, fresh);
  result.prompt_tokens = std::ssize(fresh);
  result.prompt_seconds = seconds_since(start);

  start = std::chrono::steady_clock::now();
  std::vector<Token> seen(prompt.begin(), prompt.end());
  std::vector<float> logits(static_cast<std::size_t>(engine.config().vocab_size));
  const auto next_reason = [&]() -> std::optional<StopReason> {
    if (interrupted()) return StopReason::interrupted;
    if (options.max_tokens >= 0 && std::ssize(result.tokens) >= options.max_tokens)
      return StopReason::max_tokens;
    // The last token sampled waits to be fed.
    if (!result.tokens.empty() && engine.length(sequence) >= engine.max_context())
      return StopReason::context_full;
    return {};
  };
  std::optional<StopReason> reason;
  while (!(reason = next_reason())) {
    if (!result.tokens.empty()) {
      const Feed feed{sequence, std::span(&result.tokens.back(), 1), 1};
      hidden = engine.forward(std::span(&feed, 1));
    }
    engine.head(1, hidden.data(), logits.data());
    const Token token = sampler.pick(logits, seen);
    result.tokens.push_back(token);
    seen.push_back(token);
    if (is_end(token)) {
      reason = StopReason::end_of_text;
      break;
    }
    emit(filter.push(decoder.push(token)));
    if (filter.stopped()) {
      reason = StopReason::stop_string;
      break;
    }
  }
  result.reason = *reason;
  if (!filter.stopped()) emit(filter.push(decoder.finish()));
  if (!filter.stopped()) emit(filter.finish());
  result.generate_seconds = seconds_since(start);
  return result;
}

}  // namespace fathom
