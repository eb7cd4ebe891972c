// What is read off hidden states: the final norm and the head, and what exits have of their own
// (model/checkpoint.h).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "kernels/row_buffer.h"
#include "model/config.h"
#include "runtime/weights.h"

namespace fathom {

/// Owns the values between norm and head, so that it is one thread's at a time.
class LmHead {
 public:
  /// All that is passed must outlive it.
  LmHead(const ModelConfig& config, const Weights& weights, const Backend& backend);

  /// Final norm, head and soft cap: logits[rows, vocab] of hidden[rows, hidden].
  void logits(std::int64_t rows, const float* hidden, float* logits);
  /// The same without the soft cap.
  void uncapped_logits(std::int64_t rows, const float* hidden, Rows logits);
  /// As logits(), but only summaries of the logits and those at `picks` (in the order of their rows) are
  /// kept: much less memory, and faster. Throws Error when logits are no finite numbers: the model is broken.
  std::vector<RowSummary> summarise(std::int64_t rows, const float* hidden, std::span<const Pick> picks,
                                    std::vector<float>& values);

  /// Tokens that summarise_shortlist() chooses from; 0: the model has no such list.
  std::int64_t shortlist() const { return std::ssize(weights_.shortlist); }
  /// As summarise(), but the head is asked for the tokens of the shortlist alone; `best` is a token.
  std::vector<RowSummary> summarise_shortlist(std::int64_t rows, const float* hidden);

  /// Makes of states [rows, hidden] after a visit, in place, what the head reads there: states as the last
  /// visit would have left them, as far as the exit's translator can tell. It changes nothing where the model
  /// has none, or after the last visit.
  void translate(std::int64_t visit, std::int64_t rows, float* hidden);

  bool has_gate(std::int64_t visit) const;
  /// The exit's gate of a state after that visit: how probable it is that the last visit would choose what
  /// the exit does. Only where it has one.
  double gate(std::int64_t visit, std::span<const float> hidden) const;

 private:
  ConstRows normalise(std::int64_t rows, const float* hidden, const std::vector<float>& gain);
  std::vector<RowSummary> summarise(const PackedLinear& head, std::int64_t rows, const float* hidden,
                                    std::span<const Pick> picks, std::vector<float>& values);

  const ModelConfig& config_;
  const Weights& weights_;
  const Backend& backend_;
  RowBuffer normed_, low_rank_;
  std::vector<float> ones_;  // the gain of a translator's norm
};

}  // namespace fathom
