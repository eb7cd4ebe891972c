// Documents packed into training sequences.
//
// A source's documents, each followed by the separator, form one stream t_0 ... t_{N-1}, which is cut every
// `context` tokens; the last sequence is filled up from the stream's start with tokens that are read but not
// learned. A sequence reads `context` tokens and predicts the one after each: inputs t_i ... t_{i+context-1},
// labels shifted by one inside the stream. Where the model wants a BOS before its text (Gemma), every
// sequence is BOS, t_i ... t_{i+context-2} with labels t_i ... t_{i+context-1}. Either way each token of the
// stream is predicted once an epoch, but for those that are only read (corpus/token_store.h). A sequence that
// would predict only such, the midst of a long prompt, teaches nothing and is left out.
//
// Kept within documents, a row does not see what lies before its document: rows from one of `starts` to the
// next see each other only. A document's first token is then predicted from the separator before it, or from
// BOS where the model wants that.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "corpus/token_store.h"

namespace fathom {

struct Sequence {
  std::vector<Token> inputs, labels;  ///< `context` each; label -1: read, not learned
  std::int64_t place = 0;             ///< among all sequences of the text as it lies, whatever the seed
  std::vector<std::int64_t> starts;   ///< rows, the first 0, from which on earlier ones are not seen
};

/// Rows that see each other only.
struct RowRange {
  std::int64_t first = 0, count = 0;
};
/// Those of starts[index].
RowRange document_rows(const Sequence& sequence, std::size_t index);

/// A corpus and its share of the sequences, relative to the others'.
struct MixedSource {
  TokenStore store;
  double weight = 1;
};

struct PackingOptions {
  std::int64_t context = 512;
  std::int64_t vocab = 0;  ///< the model's
  Token bos = -1;          ///< -1: none
  bool within_documents = false;
  std::uint64_t seed = 0;
};

class Packing {
 public:
  /// Throws Error when a source has fewer than two tokens, or none that is learned, or a weight is not above
  /// 0.
  Packing(std::vector<MixedSource> sources, const PackingOptions& options);

  std::int64_t tokens() const;     ///< of all sources
  std::int64_t sequences() const;  ///< that predict all of them once
  std::int64_t left_out() const;   ///< sequences in which nothing is learned
  std::int64_t learned() const;    ///< tokens of all sources that are learned
  std::string digest() const;      ///< of the sources and their weights

  /// Number `position` of the endless row of sequences. With one source: of epochs, each a permutation of all
  /// sequences of its own. With several: each source's share is exact to one sequence at every position, and
  /// the sequences taken of it are its own row of epochs. It depends on the seed and the position alone: a
  /// position is all that a run needs to go on. Throws Error naming the document of a token that the
  /// vocabulary does not have.
  Sequence at(std::int64_t position);

  /// The documents of that sequence: "wiki.jsonl line 7 to wiki.jsonl line 9".
  std::string describe(std::int64_t position);

 private:
  struct Place {
    const TokenStore* store;
    std::int64_t token;   ///< the first of the sequence
    std::int64_t number;  ///< of the sequence among those of all sources, the left out ones too
  };
  Place locate(std::int64_t position);
  std::int64_t all_sequences(const TokenStore& store) const;
  std::vector<std::int64_t> learned_sequences(const TokenStore& store) const;
  bool is_learned(const TokenStore& store, std::int64_t target) const;

  std::vector<MixedSource> sources_;
  PackingOptions options_;
  std::vector<std::vector<std::int64_t>> kept_;  ///< of each source, the sequences that are not left out
  std::int64_t position_ = 0;                    ///< up to which `taken_` counts
  std::vector<std::int64_t> taken_;              ///< sequences of each source before `position_`
};

/// Number `index` of a permutation of 0 ... count - 1 that the key chooses; no memory, so that a corpus of
/// any size can be shuffled. A Feistel network of four rounds over the next power of four, walked until it is
/// within the range (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
std::int64_t permuted(std::int64_t index, std::int64_t count, std::uint64_t key);

}  // namespace fathom
