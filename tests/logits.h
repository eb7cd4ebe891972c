// Logits by the engine, for comparisons.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/engine.h"
#include "runtime/lm_head.h"

namespace fathom {

/// [rows, vocab] of hidden [rows, hidden].
inline std::vector<float> logits_of(Engine& engine, std::span<const float> hidden) {
  const std::int64_t rows = std::ssize(hidden) / engine.config().hidden_size;
  std::vector<float> logits(static_cast<std::size_t>(rows * engine.config().vocab_size));
  engine.head().logits(rows, hidden.data(), logits.data());
  return logits;
}

/// [ids, vocab] of a sequence of its own.
inline std::vector<float> logits_of(Engine& engine, std::span<const Token> ids) {
  const Feed feed{engine.open(), ids, std::ssize(ids)};
  const std::vector<float> hidden = engine.forward({&feed, 1});
  engine.close(feed.sequence);
  return logits_of(engine, hidden);
}

/// The same of a model, in float32.
inline std::vector<float> logits_of(const Checkpoint& checkpoint, std::span<const Token> ids) {
  Engine engine(checkpoint);
  return logits_of(engine, ids);
}

}  // namespace fathom
