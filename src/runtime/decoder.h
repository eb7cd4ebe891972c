// From prompts to tokens, for any number of sequences: the one loop that generates. Each token goes through
// the plan, or leaves early by a rule, or is drafted by the first visits and verified by the others.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "runtime/engine.h"
#include "runtime/exit_rule.h"

namespace fathom {

/// Self-speculation (Elhoushi et al. 2024, arXiv 2404.16710, 4.3): the first visits draft tokens one by one,
/// the others go through all of them at once.
struct Draft {
  std::int64_t visits = 0;       ///< that draft; 0: none
  std::int64_t most_tokens = 8;  ///< at a time; how many it is follows what is accepted
};

struct DecoderOptions {
  std::shared_ptr<const ExitRule> exit = nullptr;  ///< none: every token has full depth
  ExitedKv exited_kv = ExitedKv::exact;
  Draft draft = {};  ///< not together with `exit`
  /// For analysis, where it has been measured before: the most probable token, at full depth, after the token
  /// at a position of a sequence. A rule that asks for it (ExitRule::asks_full_depth) does not go without.
  std::function<Token(int sequence, std::int64_t position)> full_depth = {};
};

/// The visits after which tokens stop; none where all have full depth. Throws UsageError for what the plan
/// does not allow.
Exits exits_of(const DecoderOptions& options, const DepthPlan& plan);

/// What the model makes of the token that follows.
struct Prediction {
  std::span<float> logits;  ///< [vocab], may be changed; none of a stream that wants the best alone
  Token best = 0;           ///< the most probable one, the first of several, where logits are not wanted
  std::int64_t visits = 0;  ///< that the token before it has made
};

/// The next token, or none to end. Those of different sequences may be asked at the same time.
using Choose = std::function<std::optional<Token>(const Prediction&)>;

class Decoder {
 public:
  /// The engine outlives it, and nothing else feeds the sequences that it was given. Throws as
  /// exits_of(), and UsageError when the engine's slots are not those of the policy.
  explicit Decoder(Engine& engine, DecoderOptions options = {});
  /// Takes back what is under way.
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// Feeds `tokens` at full depth, then what `choose` returns, until that is nothing; it may join while
  /// others are on their way. The last token chosen is not fed. What is drafted is chosen as if it had not
  /// been: from the logits of full depth, in order. Where the engine's memory for keys and values is limited,
  /// a sequence begins when there is room for its tokens, in the order of the calls; when those that generate
  /// need more, the last one that began gives back what it took, and later makes the same visits of the same
  /// tokens again. Throws Error for what Engine::submit refuses whatever room there is.
  enum class Wants { logits, best };
  void add(int sequence, std::span<const Token> tokens, Choose choose, Wants wants = Wants::logits);
  /// The same in a sequence of its own, which is closed when it ends.
  void add(std::span<const Token> tokens, Choose choose, Wants wants = Wants::logits);

  /// One layer further. False when no sequence is left. Throws what a `choose` threw, and Error when the
  /// first sequence has no room, because other sequences than this decoder's have it; that one has ended
  /// then, and the others have gone on.
  bool step();

  struct Counts {
    std::int64_t tokens = 0, visits = 0;  ///< chosen ones, and the visits of those that they were chosen from
    std::int64_t heads = 0;               ///< rows for which the head was asked
    std::int64_t shortlists = 0;          ///< rows for which it was asked for the shortlist alone
    std::int64_t verified = 0;            ///< passes through the visits that verify
    std::int64_t drafted = 0, accepted = 0,
                 passed = 0;      ///< tokens: drafted, right, and chosen by those passes
    std::int64_t given_back = 0;  ///< tokens whose keys and values gave way to others, and were made again
  };
  const Counts& counts() const { return counts_; }

 private:
  struct Stream;
  struct Row;
  void admit();
  bool feed(Stream& stream);
  std::span<const Token> next_tokens(Stream& stream, Exits& exits) const;
  bool make_room(Stream& stream, const Feed& feed);
  void give_back(Stream& stream);
  void judge();
  void collect();
  void gather(std::vector<Row*>& rows);
  void ask_heads(std::vector<Row>& rows);
  void ask_shortlist(std::vector<Row>& rows);
  void choose(const std::vector<Row>& rows);
  void draft_on(const Row& row);
  void verify(std::span<const Row> rows);
  bool next(const Row& row, std::optional<Token> token);

  Engine& engine_;
  DecoderOptions options_;
  Exits exits_;
  Counts counts_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<float> hidden_, logits_;
};

}  // namespace fathom
