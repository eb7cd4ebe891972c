// Inference by visits. Rows, not sequences, are the unit: a row is one token of one sequence at one visit,
// with its hidden state. Each step picks a layer that rows wait for, gathers them whatever their sequence and
// visit, runs the layer once over all of them and scatters the results. Keys and values have one slot for
// each (sequence, visit). A token may stop after any visit and leave there: the engine asks, and knows no
// rule (runtime/decoder.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "model/checkpoint.h"
#include "runtime/packed_cache.h"
#include "text/tokenizer.h"

namespace fathom {

/// Where an Observer may look. Values are [rows, width]; rows are those of one forward call, in its order
/// (which is why a call with an observer is never split).
enum class Tap {
  visit_input,       ///< the residual stream before a visit [hidden]
  attention_input,   ///< what q, k and v read [hidden]
  attention_mixed,   ///< what o reads [heads * head_dim]
  attention_update,  ///< what attention adds to the residual stream [hidden]
  ffn_input,         ///< what gate and up read [hidden]
  ffn_gated,         ///< what down reads [intermediate]
  ffn_update,        ///< what the feed-forward adds [hidden]
  visit_output       ///< the residual stream after a visit, before any final norm [hidden]
};

/// Sees intermediate values; used to profile and to calibrate. Called between the operations, on one thread.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void observe(Tap tap, std::int64_t visit, std::int64_t rows, std::span<const float> values) = 0;
};

/// Visits after which a token waits for a verdict, one flag a visit (that of the last does not matter).
using Exits = std::vector<bool>;

/// Tokens that a sequence takes in, after those it already has.
struct Feed {
  int sequence = 0;
  std::span<const Token> tokens;
  std::int64_t keep = 1;  ///< of the last `keep` tokens the hidden state after the last visit is returned
  const Exits* exits = nullptr;  ///< of a feed of one token, until it has gone through; none: full depth
  /// [count, hidden] in place of tokens: states that come from elsewhere, a layer before or a picture.
  std::span<const float> states = {};
};

/// What becomes of the visits that a token did not make when it left, for the tokens after it.
enum class ExitedKv {
  exact,  ///< it makes them together with the next token of its sequence that does: nothing is lost
  copy,   ///< then its keys and values are computed there, but from the state that it left with (state
          ///< propagation: Schuster et al. 2022, arXiv 2207.07061, 3.1)
  skip,   ///< later tokens do not see it there; a window counts those that they see
  share,  ///< they see what it has at the last of its visits of the same layer; for plans that loop
  single  ///< the same of every earlier token, whether it left or not: EngineOptions::single_slot
};
inline constexpr const char* exited_kv_names[] = {"exact", "copy", "skip", "share", "single"};

/// Whether a token that leaves at any of the exits has visited the layers of all later visits: what `share`
/// and `single` cannot do without.
bool can_share(const DepthPlan& plan, const Exits& exits);

/// A token that waits for a verdict.
struct AtExit {
  std::int64_t ticket = 0;
  std::int64_t visit = 0;         ///< the last one that it made
  std::span<const float> hidden;  ///< after it; until the next step
};

struct EngineOptions {
  Compute compute = Compute::f32;
  std::optional<Compute> kv = std::nullopt;  ///< f32, bf16 or int8; none: f32 beside f32, otherwise bf16
  std::int64_t max_context = 0;              ///< 0: the model's own limit
  std::int64_t kv_memory = 0;                ///< most bytes of keys and values; 0: no limit
  /// Visits of one layer have one slot, which each writes over (arXiv 2608.09444): a plan that loops r times
  /// takes a r-th of the memory. The tokens of a feed go through each visit together and see each other's
  /// entries of that visit; of tokens of earlier feeds they see those of the last visit that these made. So a
  /// sequence takes one feed at a time, and what it computes follows from its feeds and nothing else.
  bool single_slot = false;
  bool trace = false;      ///< a line about each operation on standard error
  PackedCache cache = {};  ///< none: weights are packed each time, and not kept
};

class LmHead;
struct Model;

class Engine {
 public:
  /// A plan over a model's layers. Throws Error when it has none, or asks for layers or adapters that the
  /// model does not have, or the context is longer than the model's, or the memory for keys and values is too
  /// little for 64 tokens. Of the options those about keys and values and the context
  /// matter.
  Engine(std::shared_ptr<const Model> model, DepthPlan plan, const EngineOptions& options = {});
  /// The checkpoint's own plan over a model of its own.
  explicit Engine(const Checkpoint& checkpoint, const EngineOptions& options = {});
  ~Engine();
  Engine(Engine&&) noexcept;

  const ModelConfig& config() const;
  const DepthPlan& plan() const;
  const Backend& backend() const;
  std::int64_t max_context() const;   ///< tokens of a sequence, no more than its keys and values have room
  std::int64_t weight_bytes() const;  ///< memory of packed weights
  Compute layer_type() const;  ///< what a layer's weights became: those of the first one's down projection
  Compute kv_type() const;     ///< of the cached keys and values
  bool single_slot() const;
  std::int64_t kv_bytes() const;        ///< memory of one token's keys and values at one visit
  std::int64_t token_kv_bytes() const;  ///< in all slots
  std::int64_t kv_pages() const;        ///< that open sequences hold

  /// A new, empty sequence. Its memory grows with its length, and close leaves it to other sequences.
  int open();
  /// A new sequence with the tokens of this one, which must have none under way: what the two have in common
  /// is kept once. What tokens that left owe is owed by both.
  int fork(int sequence);
  void close(int sequence);
  std::int64_t length(int sequence) const;  ///< tokens it has
  /// Forgets all tokens from `length` on.
  void truncate(int sequence, std::int64_t length);

  /// Runs all feeds through the plan in one batch and returns the kept rows' hidden states after the last
  /// visit (before the final norm): [sum of keep, hidden], in the order of the feeds. Large feeds are split
  /// inside. A sequence may appear once. Throws Error, before anything is changed, when a token is outside
  /// the vocabulary, a sequence would exceed max_context or all of them kv_memory. A row's result is the same
  /// to the last bit whatever rows are beside it, in whatever order they came, and however many threads there
  /// are.
  std::vector<float> forward(std::span<const Feed> feeds, Observer* observer = nullptr);

  /// The same in steps, so that feeds may join while others are on their way (continuous batching by depth):
  /// submit queues a feed and returns its ticket; step runs one layer over all rows that wait for it and is
  /// false when nothing is left; take returns (once) the kept rows of a feed that has gone through, which is
  /// when it is finished. What is submitted was promised memory for its keys and values, which it takes when
  /// its rows begin: submit throws Error, before anything is changed, when no more is left.
  std::int64_t submit(const Feed& feed);
  /// Whether there is memory for a feed now. Throws Error as submit for what else is wrong with it.
  bool has_room(const Feed& feed) const;
  bool step(Observer* observer = nullptr);
  bool finished(std::int64_t ticket) const;
  std::vector<float> take(std::int64_t ticket);

  /// Takes a feed back, at any moment: its sequence is as it was before, and others notice nothing.
  void cancel(std::int64_t ticket);

  /// Tokens that wait for a verdict; step does not touch them before they have it. What was kept of one that
  /// leaves is its state at the exit, and its ticket is finished.
  std::vector<AtExit> at_exits() const;
  void go_on(std::int64_t ticket);
  void leave(std::int64_t ticket, ExitedKv policy);
  /// Lets all tokens of a sequence that left (exact), and have not gone through, go through: a ticket as
  /// submit's, which keeps the states of all of them. The sequence must have nothing else under way.
  std::int64_t catch_up(int sequence);

  /// What reads the states that come out.
  LmHead& head();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace fathom
