// How fast a model runs here: the two phases that a user waits for.
#pragma once

#include <cstdint>

#include "base/json.h"
#include "runtime/engine.h"

namespace fathom {

struct Speed {
  std::int64_t prompt_tokens = 0, generated_tokens = 0;  ///< how many were measured
  double prompt = 0, generate = 0;                       ///< tokens per second
};

/// Times one sequence: a prompt of `prompt_tokens` (the faster of two runs, since the first also sets up),
/// then `generated_tokens` greedily one by one, head included. Both are cut to half of the model's context
/// where that is shorter.
Speed measure_speed(Engine& engine, std::int64_t prompt_tokens = 512, std::int64_t generated_tokens = 64);

/// {"prompt", "generate", "prompt_tokens", "generated_tokens"}
Json to_json(const Speed& speed);

}  // namespace fathom
