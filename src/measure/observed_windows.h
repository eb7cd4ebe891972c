// A text in windows, past an observer: how everything here measures a model.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/engine.h"

namespace fathom {

/// Runs each whole window of `context` tokens (a last short one is left out), after `bos` if that is not
/// negative, as a sequence of its own in one forward call. Shows a progress bar. Throws Error when the text
/// is shorter than one window.
void run_windows(Engine& engine, std::span<const Token> ids, std::int64_t context, Token bos,
                 const char* title, Observer& observer);

}  // namespace fathom
