// Tying layers into a block that is looped, and relaxing each visit with its own LoRA (Bae et al. 2024, arXiv
// 2410.20672).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "depth/calibrate.h"
#include "model/checkpoint.h"
#include "text/tokenizer.h"

namespace fathom {

/// Which depths share a layer; L depths, B loops. The middle variants leave the first and last layer untied
/// (MoR, Bae et al. 2025, arXiv 2507.10524, table 1).
enum class Sharing {
  cycle,     ///< 0..K-1, 0..K-1, ...: depth l runs layer l mod K, K = L / B
  sequence,  ///< 0,0,1,1,...: depth l runs layer l div B
  middle_cycle,
  middle_sequence
};

enum class SharedInit {
  average,    ///< mean of the tied weights
  stepwise,   ///< layers at regular intervals, first and last kept
  lower,      ///< the first of the tied depths; under cycle that is the first K layers
  calibrated  ///< shared and own parts fitted together to activations of a text (docs/tying.md)
};

enum class LoraInit {
  svd,  ///< truncated SVD of what tying lost: B = U S, A = Vᵀ (arXiv 2410.20672, eq. 4 and 5)
  zero  ///< A Gaussian, B zero
};

struct RecurOptions {
  std::int64_t loops = 2;
  Sharing sharing = Sharing::middle_sequence;
  SharedInit init = SharedInit::calibrated;
  LoraInit lora = LoraInit::svd;
  std::int64_t rank = 64;    ///< clipped to min(in, out) of each matrix; 0: no adapters
  std::int64_t rounds = 24;  ///< alternations of the calibrated fit
  std::int64_t calibration_tokens = 16'384;
  std::int64_t context = 512;
  Token bos = -1;  ///< put before each window of the calibration text, if not negative
  std::uint64_t seed = 0;
};

Sharing sharing_from_name(
    const std::string& name);  ///< "cycle", "middle-sequence", ...; throws UsageError listing the names
SharedInit shared_init_from_name(const std::string& name);
LoraInit lora_init_from_name(const std::string& name);
const char* name_of(Sharing sharing);
const char* name_of(SharedInit init);
const char* name_of(LoraInit lora);

/// The layer that each of `depth` visits runs. Throws UsageError when the tied depths are not a multiple of
/// `loops`.
std::vector<std::int64_t> share_layers(std::int64_t depth, std::int64_t loops, Sharing sharing);

/// Relative error ||W_l - W' - B_l A_l|| / ||W_l|| of every matrix, by visit: weighted by the activations
/// when calibrated.
struct FitReport {
  std::vector<std::vector<double>> error;  ///< [visit][Linear]
};

/// The recursive model. `ids` is the calibration text (calibrated only). Shows a progress bar. Throws
/// UsageError / Error. Full rank gives the original's function back; rank 0 is the plain recursive model.
Checkpoint recur(const Checkpoint& checkpoint, const RecurOptions& options, std::span<const Token> ids,
                 FitReport* report = nullptr);

/// The same, calibrated with what `moments` has gathered from options.calibration_tokens tokens at the
/// tied_visits; it gives their memory away.
Checkpoint recur(const Checkpoint& checkpoint, const RecurOptions& options, SecondMoments& moments,
                 FitReport* report = nullptr);

/// The visits whose layers are tied, ascending: those whose inputs the calibrated fit is made from.
std::vector<std::int64_t> tied_visits(const Checkpoint& checkpoint, const RecurOptions& options);

/// Floating-point operations of one of the calibrated fit's rounds, over all tied visits (tie_calibrated).
double round_operations(const Checkpoint& checkpoint, const RecurOptions& options);

}  // namespace fathom
