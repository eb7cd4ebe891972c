// A text in windows, past an observer: how everything here measures a model.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/engine.h"

namespace fathom {

/// The whole windows of `context` tokens (a last short one is left out), each after `bos` if that is not
/// negative. Throws Error when the text is shorter than one window.
std::vector<std::vector<Token>> whole_windows(std::span<const Token> ids, std::int64_t context, Token bos);

/// Runs each of them as a sequence of its own in one forward call. Shows a progress bar.
void run_windows(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                 const char* title, Observer& observer);

}  // namespace fathom
