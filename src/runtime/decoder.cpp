#include "runtime/decoder.h"

#include <algorithm>
#include <exception>
#include <map>
#include <utility>

#include "base/error.h"
#include "base/threads.h"
#include "runtime/lm_head.h"

namespace fathom {

struct Decoder::Stream {
  int sequence = 0;
  bool own_sequence = false;
  Choose choose;
  Wants wants = Wants::logits;
  bool ended = false;
  std::exception_ptr error;  // that ended it
  std::int64_t ticket = -1;

  // All tokens after the `base` ones that the sequence had before. What follows the first `settled` of them
  // is known; of those the sequence has fewer while it makes again what it gave back.
  std::vector<Token> tokens;
  std::int64_t base = 0, prompt = 0, settled = 0;
  std::map<std::int64_t, std::int64_t>
      left;            // those that cannot be made at full depth: after how many visits
  bool again = false;  // the ticket is of settled ones

  // Of the token under way, at the exits that it has passed.
  std::vector<float> before;
  std::vector<RowSummary> heads;

  // What the exit made of the tokens after the last of `tokens`.
  std::vector<Token> drafts;
  std::int64_t most = 0;
  bool complete = false, verifying = false;
  int failures = 0;       // passes in a row that accepted nothing
  std::int64_t rest = 0;  // tokens to go without drafts
};

// A state of which the head is to be asked, and what it says.
struct Decoder::Row {
  Stream* stream = nullptr;
  std::vector<float> hidden = {};
  std::int64_t visits = 0;
  bool wants_logits = false;
  std::span<float> logits = {};
  RowSummary head = {};

  Token best() const { return static_cast<Token>(head.best); }
  // An error ends the stream, and is told when the others have gone on.
  std::optional<Token> choose() const {
    try {
      return stream->choose({logits, best(), visits});
    } catch (...) {
      stream->error = std::current_exception();
      return {};
    }
  }
};

Exits exits_of(const DecoderOptions& options, const DepthPlan& plan) {
  const std::int64_t drafting = options.draft.visits;
  if (drafting == 0 && options.exit == nullptr) return {};
  if (drafting == 0) {
    const Exits exits = options.exit->exits(plan);
    const bool shares = options.exited_kv == ExitedKv::share || options.exited_kv == ExitedKv::single;
    if (shares && !can_share(plan, exits))
      fail_usage(
          "keys and values cannot be shared with earlier visits of the same layer: after an exit of this "
          "plan ({}) there are layers that were not visited before; copy them",
          plan.describe());
    return exits;
  }
  if (options.exit != nullptr)
    fail_usage("an exit rule and drafts exclude each other: a draft leaves at its exit, and is verified");
  if (options.exited_kv == ExitedKv::single)
    fail_usage("drafts are verified by the keys and values of every visit, and cannot have a single slot");
  if (drafting < 0 || drafting >= plan.depth())
    fail_usage("a draft by {} visits was asked for, expected 1 to {}", drafting, plan.depth() - 1);
  Exits exits(static_cast<std::size_t>(plan.depth()));
  exits[static_cast<std::size_t>(drafting - 1)] = true;
  return exits;
}

Decoder::Decoder(Engine& engine, DecoderOptions options)
    : engine_(engine), options_(std::move(options)), exits_(exits_of(options_, engine.plan())) {
  if (!exits_.empty() && engine.single_slot() != (options_.exited_kv == ExitedKv::single))
    fail_usage("visits of a layer {} one slot in this engine: tokens cannot leave it by '{}'",
               engine.single_slot() ? "share" : "do not share",
               exited_kv_names[static_cast<std::size_t>(options_.exited_kv)]);
  if (options_.exit == nullptr) return;
  if (options_.exit->asks_full_depth() && !options_.full_depth)
    fail_usage(
        "the oracle knows what full depth would say, which only `fathom eval --exit oracle` has measured "
        "before: take another rule to generate");
  for (std::size_t visit = 0; options_.exit->asks_gate() && visit < exits_.size(); ++visit)
    if (exits_[visit] && !engine.head().has_gate(static_cast<std::int64_t>(visit)))
      fail_usage("the exit after {} visits has no gate: `fathom exits --gate` fits one", visit + 1);
}

Decoder::~Decoder() {
  for (const auto& stream : streams_) {
    if (stream->ticket >= 0) engine_.cancel(stream->ticket);
    if (!stream->drafts.empty()) engine_.truncate(stream->sequence, stream->base + stream->settled);
    if (stream->own_sequence) engine_.close(stream->sequence);
  }
}

void Decoder::add(int sequence, std::span<const Token> tokens, Choose choose, Wants wants) {
  engine_.has_room({.sequence = sequence, .tokens = tokens});  // what is wrong is told now
  auto stream = std::make_unique<Stream>();
  stream->sequence = sequence;
  stream->choose = std::move(choose);
  stream->wants = wants;
  stream->most = options_.draft.most_tokens;
  stream->tokens.assign(tokens.begin(), tokens.end());
  stream->prompt = std::ssize(tokens);
  stream->base = engine_.length(sequence);
  streams_.push_back(std::move(stream));
}

void Decoder::add(std::span<const Token> tokens, Choose choose, Wants wants) {
  const int sequence = engine_.open();
  try {
    add(sequence, tokens, std::move(choose), wants);
  } catch (...) {
    engine_.close(sequence);
    throw;
  }
  streams_.back()->own_sequence = true;
}

bool Decoder::step() {
  admit();
  engine_.step();
  if (!exits_.empty()) judge();
  collect();
  std::exception_ptr error;
  std::erase_if(streams_, [&](const auto& stream) {
    if (!stream->ended) return false;
    if (stream->own_sequence) engine_.close(stream->sequence);
    if (!error) error = stream->error;
    return true;
  });
  if (error) std::rethrow_exception(error);
  return !streams_.empty();
}

// Those with nothing on its way go on, in the order in which they came. Nobody overtakes one that waits for
// room, so those that have begun came before those that have not.
void Decoder::admit() {
  for (const auto& stream : streams_)
    if (stream->ticket < 0 && !feed(*stream)) return;
}

// The next tokens of a stream, unless it has to wait for room.
bool Decoder::feed(Stream& stream) {
  Exits exits;
  const std::span<const Token> tokens = next_tokens(stream, exits);
  const Feed feed = {
      .sequence = stream.sequence, .tokens = tokens, .exits = exits.empty() ? nullptr : &exits};
  if (!make_room(stream, feed)) return false;
  try {
    stream.ticket = engine_.submit(feed);
  } catch (const Error&) {
    stream.error = std::current_exception();
    stream.ended = true;
  }
  return true;
}

// And where they may leave.
std::span<const Token> Decoder::next_tokens(Stream& stream, Exits& exits) const {
  const auto tokens = [&stream](std::int64_t first, std::int64_t end) {
    return std::span<const Token>(stream.tokens)
        .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(end - first));
  };
  const std::int64_t made = engine_.length(stream.sequence) - stream.base;
  stream.again = made < stream.settled;
  if (!stream.again && !stream.drafts.empty()) {
    exits = exits_;
    return std::span(stream.drafts).last(1);
  }
  if (!stream.again) {
    if (stream.settled > 0 && stream.rest == 0) exits = exits_;
    return tokens(stream.settled, std::ssize(stream.tokens));
  }
  const auto left = stream.left.lower_bound(made);
  if (left != stream.left.end() && left->first == made) {  // leaves as it did
    exits.resize(exits_.size());
    exits[static_cast<std::size_t>(left->second - 1)] = true;
    return tokens(made, made + 1);
  }
  std::int64_t end = left == stream.left.end() ? stream.settled : left->first;
  // In a single slot tokens that go together would see of each other what they did not.
  if (engine_.single_slot()) end = made == 0 ? stream.prompt : made + 1;
  return tokens(made, end);
}

// Lets those that began last give back what they have, until there is room for the feed of a stream that has
// begun. False when this one has to wait. Where it is alone, submit says what is missing.
bool Decoder::make_room(Stream& stream, const Feed& feed) {
  const auto has_begun = [this](const auto& one) { return engine_.length(one->sequence) > one->base; };
  while (!engine_.has_room(feed)) {
    const auto found = std::find_if(streams_.rbegin(), streams_.rend(), has_begun);
    Stream* last = found == streams_.rend() ? nullptr : found->get();
    if (last == nullptr || (last == &stream && last == streams_.front().get())) return true;
    if (!has_begun(&stream)) return false;
    give_back(*last);
    if (last == &stream) return false;
  }
  return true;
}

// The stream is as if it had not begun, but for what is known of it.
void Decoder::give_back(Stream& stream) {
  if (stream.ticket >= 0) engine_.cancel(std::exchange(stream.ticket, -1));
  counts_.given_back += std::min(engine_.length(stream.sequence) - stream.base, stream.settled);
  engine_.truncate(stream.sequence, stream.base);
  stream.before.clear();
  stream.heads.clear();
  stream.drafts.clear();
  stream.complete = stream.verifying = false;
}

// Those that wait at an exit: drafts leave, others when their rule says so.
void Decoder::judge() {
  const bool drafting = options_.draft.visits > 0;
  const bool asks_head = !drafting && options_.exit->asks_head();
  // The oracle, who knows what full depth makes of all tokens, asks for all of them.
  const bool shortly = engine_.head().shortlist() > 0 && (drafting || !options_.exit->asks_full_depth());
  const bool has_logits = asks_head && !shortly;  // otherwise only a token that leaves asks for them
  std::vector<Row> rows, last;  // the last of a draft: only full depth's head is asked of it
  std::vector<Stream*> again;   // leave as they did before
  for (const AtExit& at : engine_.at_exits())
    for (const auto& stream : streams_)
      if (stream->ticket == at.ticket && stream->again)
        again.push_back(stream.get());
      else if (stream->ticket == at.ticket)
        (stream->complete ? last : rows)
            .push_back({.stream = stream.get(),
                        .hidden = {at.hidden.begin(), at.hidden.end()},
                        .visits = at.visit + 1,
                        .wants_logits = has_logits && stream->wants == Wants::logits});
  for (Stream* stream : again) {
    engine_.leave(stream->ticket, options_.exited_kv);
    engine_.take(std::exchange(stream->ticket, -1));
  }
  if (drafting || asks_head) shortly ? ask_shortlist(rows) : ask_heads(rows);
  if (drafting) {
    for (const Row& row : rows) draft_on(row);
    for (const Row& row : last) draft_on(row);
    return;
  }
  std::vector<Row> left;
  for (Row& row : rows) {
    Stream& stream = *row.stream;
    if (asks_head) stream.heads.push_back(row.head);
    ExitView view = {
        .visit = row.visits - 1, .hidden = row.hidden, .before = stream.before, .heads = stream.heads};
    if (options_.exit->asks_gate()) view.gate = engine_.head().gate(view.visit, row.hidden);
    if (options_.exit->asks_full_depth())
      view.full_depth = options_.full_depth(stream.sequence, engine_.length(stream.sequence) - 1);
    if (options_.exit->leaves(view)) {
      engine_.leave(stream.ticket, options_.exited_kv);
      engine_.take(std::exchange(stream.ticket, -1));
      if (options_.exited_kv != ExitedKv::exact) stream.left.emplace(stream.settled, row.visits);
      left.push_back(std::move(row));
    } else {
      engine_.go_on(stream.ticket);
      stream.before = std::move(row.hidden);
    }
  }
  if (!has_logits) {
    for (Row& row : left) row.wants_logits = row.stream->wants == Wants::logits;
    ask_heads(left);
  }
  choose(left);
}

// A drafted token leaves, and the next follows it. The last one, too, makes the first visits: when all are
// right, what full depth says after it is a token more.
void Decoder::draft_on(const Row& row) {
  Stream& stream = *row.stream;
  engine_.leave(stream.ticket, ExitedKv::exact);
  engine_.take(std::exchange(stream.ticket, -1));
  if (!stream.complete) {
    stream.drafts.push_back(row.best());
    const bool room = engine_.length(stream.sequence) < engine_.max_context() &&
                      engine_.has_room({.sequence = stream.sequence, .tokens = {&stream.drafts.back(), 1}});
    stream.complete = std::ssize(stream.drafts) == stream.most || !room;
    if (room) return;
    stream.drafts.pop_back();
  }
  stream.ticket = engine_.catch_up(stream.sequence);
  stream.verifying = true;
}

// Those that have gone through.
void Decoder::collect() {
  const auto width = engine_.config().hidden_size;
  std::vector<Row> rows;
  for (const auto& stream : streams_) {
    if (stream->ended || stream->ticket < 0 || !engine_.finished(stream->ticket)) continue;
    const std::vector<float> kept = engine_.take(std::exchange(stream->ticket, -1));
    if (stream->again) continue;
    for (auto at = kept.begin(); at != kept.end(); at += width)
      rows.push_back({.stream = stream.get(),
                      .hidden = {at, at + width},
                      .visits = engine_.plan().depth(),
                      .wants_logits = stream->wants == Wants::logits});
  }
  if (rows.empty()) return;
  ask_heads(rows);
  std::vector<Row> single;
  for (auto row = rows.begin(); row != rows.end();) {
    if (!row->stream->verifying) {
      single.push_back(std::move(*row++));
      continue;
    }
    const std::ptrdiff_t count = std::ssize(row->stream->drafts) + 1;
    verify({row, row + count});
    row += count;
  }
  choose(single);
}

// What the head reads of rows, which come into the order of their visits.
void Decoder::gather(std::vector<Row*>& rows) {
  std::ranges::stable_sort(rows, {}, &Row::visits);
  hidden_.clear();
  for (const Row* row : rows) hidden_.insert(hidden_.end(), row->hidden.begin(), row->hidden.end());
  for (auto first = rows.begin(); first != rows.end();) {
    const auto last =
        std::find_if(first, rows.end(), [&](const Row* row) { return row->visits != (*first)->visits; });
    engine_.head().translate((*first)->visits - 1, last - first,
                             hidden_.data() + (first - rows.begin()) * engine_.config().hidden_size);
    first = last;
  }
}

// Of the head what is enough to draft, and to judge by.
void Decoder::ask_shortlist(std::vector<Row>& rows) {
  if (rows.empty()) return;
  std::vector<Row*> all;
  for (Row& row : rows) all.push_back(&row);
  gather(all);
  const auto summaries = engine_.head().summarise_shortlist(std::ssize(all), hidden_.data());
  for (std::size_t i = 0; i < all.size(); ++i) all[i]->head = summaries[i];
  counts_.shortlists += std::ssize(all);
}

void Decoder::ask_heads(std::vector<Row>& rows) {
  const auto vocab = static_cast<std::size_t>(engine_.config().vocab_size);
  const auto of_those = [&](bool wants_logits, const auto& use) {
    std::vector<Row*> those;
    for (Row& row : rows)
      if (row.wants_logits == wants_logits) those.push_back(&row);
    if (those.empty()) return;
    gather(those);
    use(those);
    counts_.heads += std::ssize(those);
  };
  of_those(false, [&](const std::vector<Row*>& those) {
    std::vector<float> none;
    const auto summaries = engine_.head().summarise(std::ssize(those), hidden_.data(), {}, none);
    for (std::size_t i = 0; i < those.size(); ++i) those[i]->head = summaries[i];
  });
  of_those(true, [&](const std::vector<Row*>& those) {
    logits_.resize(std::max(logits_.size(), those.size() * vocab));
    engine_.head().logits(std::ssize(those), hidden_.data(), logits_.data());
    parallel_for(std::ssize(those), [&](std::int64_t i) {
      Row& row = *those[static_cast<std::size_t>(i)];
      row.logits = std::span(logits_).subspan(static_cast<std::size_t>(i) * vocab, vocab);
      if (options_.exit != nullptr && options_.exit->asks_head()) row.head = summary_of(row.logits);
    });
  });
}

// One row a stream.
void Decoder::choose(const std::vector<Row>& rows) {
  std::vector<std::optional<Token>> tokens(rows.size());
  parallel_for(std::ssize(rows), [&](std::int64_t i) {
    tokens[static_cast<std::size_t>(i)] = rows[static_cast<std::size_t>(i)].choose();
  });
  for (std::size_t i = 0; i < rows.size(); ++i) next(rows[i], tokens[i]);
}

// Of tokens that were fed one after another, each draft being right: the first that is not ends it.
void Decoder::verify(std::span<const Row> rows) {
  Stream& stream = *rows.front().stream;
  const std::vector<Token> drafts = std::exchange(stream.drafts, {});
  stream.verifying = stream.complete = false;
  counts_.drafted += std::ssize(drafts);
  ++counts_.verified;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    const std::optional<Token> token = row.choose();
    const bool goes_on = next(row, token), right = i < drafts.size() && token == drafts[i];
    counts_.accepted += right ? 1 : 0;
    ++counts_.passed;
    if (goes_on && right) continue;
    const auto agreed = static_cast<std::int64_t>(i);
    // A draft of one token more than was right costs one visit of the first layers too many.
    const bool all = i == drafts.size();
    stream.most = std::clamp<std::int64_t>(all ? stream.most + 1 : agreed + 1, 1, options_.draft.most_tokens);
    // Where the first visits know nothing of what comes, asking them is all cost: every 16 tokens is enough.
    constexpr int patience = 3;
    stream.failures = agreed > 0 ? 0 : std::min(stream.failures + 1, patience);
    if (stream.failures == patience) stream.rest = 16;
    engine_.truncate(stream.sequence, stream.base + stream.settled);
    return;
  }
}

// Whether the stream goes on with the token.
bool Decoder::next(const Row& row, std::optional<Token> token) {
  Stream& stream = *row.stream;
  ++counts_.tokens;
  counts_.visits += row.visits;
  stream.before.clear();
  stream.heads.clear();
  if (stream.rest > 0) --stream.rest;
  stream.settled = std::ssize(stream.tokens);
  stream.ended = !token.has_value();
  if (!stream.ended) stream.tokens.push_back(*token);
  return !stream.ended;
}

}  // namespace fathom
