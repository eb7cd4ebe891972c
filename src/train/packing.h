// Documents packed into training sequences.
//
// All documents, each followed by the separator, form one stream t_0 ... t_{N-1}, which is cut every
// `context` tokens; the last sequence goes on at the stream's start, so that nothing is left out. A sequence
// reads `context` tokens and predicts the one after each: inputs t_i ... t_{i+context-1}, labels shifted by
// one inside the stream. Where the model wants a BOS before its text (Gemma), every sequence is BOS, t_i ...
// t_{i+context-2} with labels t_i ... t_{i+context-1}. Either way each token of the stream is predicted once
// an epoch.
#pragma once

#include <cstdint>
#include <vector>

#include "model/tokenizer.h"

namespace fathom {

struct Sequence {
  std::vector<Token> inputs, labels;  ///< `context` each
};

class Packing {
 public:
  /// `bos` -1: none. Throws Error when there are fewer than two tokens.
  Packing(const std::vector<std::vector<Token>>& documents, Token separator, std::int64_t context, Token bos,
          std::uint64_t seed);

  std::int64_t tokens() const { return static_cast<std::int64_t>(stream_.size()); }
  std::int64_t sequences() const { return sequences_; }  ///< an epoch's
  const std::vector<Token>& stream() const { return stream_; }

  /// Number `position` of the endless row of epochs, each a permutation of all sequences of its own that
  /// depends on the seed and the epoch alone: a position is all that a run needs to go on.
  Sequence at(std::int64_t position);

 private:
  std::vector<Token> stream_;
  std::int64_t context_, sequences_;
  Token bos_;
  std::uint64_t seed_;
  std::int64_t epoch_ = -1;
  std::vector<std::int64_t> order_;  ///< of `epoch_`
};

}  // namespace fathom
