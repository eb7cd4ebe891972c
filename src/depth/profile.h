// How much each visit contributes, measured on a text.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/json.h"
#include "model/checkpoint.h"
#include "runtime/engine.h"
#include "text/tokenizer.h"

namespace fathom {

/// Distribution of ||f(x)|| / ||x + f(x)|| over tokens: what a residual branch contributes (Dotzel et al.
/// 2024, arXiv 2404.04900).
struct ResidualRatio {
  double p10 = 0, median = 0, p90 = 0;
};

struct Profile {
  std::int64_t depth = 0;
  std::int64_t tokens = 0;
  std::int64_t context = 0;
  /// angular[n - 1][l]: angular distance (Gromov et al. 2024, arXiv 2403.17887, eq. in 3.2; 0 same direction,
  /// 1 opposite) between the inputs of visits l and l + n, i.e. across the block [l, l + n); l + n = depth is
  /// the state before the final norm. Every l from 0 and every n from 1 to depth.
  std::vector<std::vector<double>> angular;
  /// 1 - mean cosine of a visit's input and output over all tokens (ShortGPT, Men et al. 2024, arXiv
  /// 2403.03853, eq. 1).
  std::vector<double> block_influence;
  std::vector<ResidualRatio> attention, ffn;  ///< a visit each
};

struct ProfileOptions {
  std::int64_t context = 512;  ///< tokens a window; a last short one is left out
  std::int64_t max_tokens = 32'768;
  Token bos = -1;  ///< put before each window and not counted, if not negative
  /// Angular distance at each window's last token alone, as in the paper, which takes 10,000 windows; else at
  /// every token. On SmolLM2 every token of two windows names the same blocks as 8,192 tokens do (four
  /// layers: 12 to 15), the last tokens of two windows quite others (4 to 7).
  bool last_token_only = false;
};

/// arccos(cosine) / pi: 0 same direction, 0.5 orthogonal, 1 opposite. A cosine that rounding has put outside
/// [-1, 1] counts as the nearest end.
double angular_distance(double cosine);

/// Throws Error when the text is shorter than one window. Shows a progress bar.
Profile profile_depth(const Checkpoint& checkpoint, std::span<const Token> ids,
                      const ProfileOptions& options);

/// The same with an engine that is at hand. `beside` sees all that the text's one pass shows, too.
Profile profile_depth(Engine& engine, std::span<const Token> ids, const ProfileOptions& options,
                      Observer* beside = nullptr);

/// First visit of the block of `count` with the smallest angular distance.
std::int64_t most_similar_block(const Profile& profile, std::int64_t count);

Json to_json(const Profile& profile);

}  // namespace fathom
