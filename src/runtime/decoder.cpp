#include "runtime/decoder.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/threads.h"

namespace fathom {

struct Decoder::Stream {
  int sequence = 0;
  Choose choose;
  Wants wants = Wants::logits;
  bool ended = false;
  std::int64_t ticket = -1;

  // Of the token under way, at the exits that it has passed.
  std::vector<float> before;
  std::vector<RowSummary> heads;

  // What the exit made of the tokens after those that were fed since `start`; they are verified from there.
  std::vector<Token> drafts;
  std::int64_t start = 0, most = 0;
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
};

Exits exits_of(const DecoderOptions& options, const DepthPlan& plan) {
  const std::int64_t drafting = options.draft.visits;
  if (drafting == 0 && options.exit == nullptr) return {};
  if (drafting == 0) {
    const Exits exits = options.exit->exits(plan);
    if (options.exited_kv == ExitedKv::share && !can_share(plan, exits))
      fail_usage(
          "keys and values cannot be shared with earlier visits of the same layer: after an exit of this "
          "plan "
          "({}) there are layers that were not visited before; copy them",
          plan.describe());
    return exits;
  }
  if (options.exit != nullptr)
    fail_usage("an exit rule and drafts exclude each other: a draft leaves at its exit, and is verified");
  if (drafting < 0 || drafting >= plan.depth())
    fail_usage("a draft by {} visits was asked for, expected 1 to {}", drafting, plan.depth() - 1);
  Exits exits(static_cast<std::size_t>(plan.depth()));
  exits[static_cast<std::size_t>(drafting - 1)] = true;
  return exits;
}

Decoder::Decoder(Engine& engine, DecoderOptions options)
    : engine_(engine), options_(std::move(options)), exits_(exits_of(options_, engine.plan())) {
  if (options_.exit == nullptr) return;
  if (options_.exit->asks_full_depth() && !options_.full_depth)
    fail_usage(
        "the oracle knows what full depth would say, which only `fathom eval --exit oracle` has measured "
        "before: "
        "take another rule to generate");
  for (std::size_t visit = 0; options_.exit->asks_gate() && visit < exits_.size(); ++visit)
    if (exits_[visit] && !engine.has_gate(static_cast<std::int64_t>(visit)))
      fail_usage("the exit after {} visits has no gate: `fathom exits --gate` fits one", visit + 1);
}

Decoder::~Decoder() {
  for (const auto& stream : streams_) {
    if (stream->ticket >= 0) engine_.cancel(stream->ticket);
    if (!stream->drafts.empty()) engine_.truncate(stream->sequence, stream->start);
  }
}

void Decoder::add(int sequence, std::span<const Token> tokens, Choose choose, Wants wants) {
  auto stream = std::make_unique<Stream>();
  stream->sequence = sequence;
  stream->choose = std::move(choose);
  stream->wants = wants;
  stream->most = options_.draft.most_tokens;
  stream->ticket = engine_.submit({.sequence = sequence, .tokens = tokens});
  streams_.push_back(std::move(stream));
}

bool Decoder::step() {
  engine_.step();
  if (!exits_.empty()) judge();
  collect();
  std::erase_if(streams_, [](const auto& stream) { return stream->ended; });
  return !streams_.empty();
}

// The next token of a stream on its way.
void Decoder::feed(Stream& stream, std::span<const Token> tokens) {
  stream.before.clear();
  stream.heads.clear();
  if (options_.draft.visits > 0 && stream.drafts.empty()) stream.start = engine_.length(stream.sequence);
  const bool full_depth = exits_.empty() || (stream.rest > 0 && stream.rest-- > 0);
  stream.ticket = engine_.submit(
      {.sequence = stream.sequence, .tokens = tokens, .exits = full_depth ? nullptr : &exits_});
}

// Those that wait at an exit: drafts leave, others when their rule says so.
void Decoder::judge() {
  const bool drafting = options_.draft.visits > 0;
  const bool asks_head = !drafting && options_.exit->asks_head();
  // The oracle, who knows what full depth makes of all tokens, asks for all of them.
  const bool shortly = engine_.shortlist() > 0 && (drafting || !options_.exit->asks_full_depth());
  const bool has_logits = asks_head && !shortly;  // otherwise only a token that leaves asks for them
  std::vector<Row> rows, last;  // the last of a draft: only full depth's head is asked of it
  for (const AtExit& at : engine_.at_exits())
    for (const auto& stream : streams_)
      if (stream->ticket == at.ticket)
        (stream->complete ? last : rows)
            .push_back({.stream = stream.get(),
                        .hidden = {at.hidden.begin(), at.hidden.end()},
                        .visits = at.visit + 1,
                        .wants_logits = has_logits && stream->wants == Wants::logits});
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
    if (options_.exit->asks_gate()) view.gate = engine_.gate(view.visit, row.hidden);
    if (options_.exit->asks_full_depth())
      view.full_depth = options_.full_depth(stream.sequence, engine_.length(stream.sequence) - 1);
    if (options_.exit->leaves(view)) {
      engine_.leave(stream.ticket, options_.exited_kv);
      engine_.take(std::exchange(stream.ticket, -1));
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
    const bool room = engine_.length(stream.sequence) < engine_.max_context();
    stream.complete = std::ssize(stream.drafts) == stream.most || !room;
    if (room) return feed(stream, {&stream.drafts.back(), 1});
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
    engine_.translate((*first)->visits - 1, last - first,
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
  const auto summaries = engine_.summarise_shortlist(std::ssize(all), hidden_.data());
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
    const auto summaries = engine_.summarise_head(std::ssize(those), hidden_.data(), {}, none);
    for (std::size_t i = 0; i < those.size(); ++i) those[i]->head = summaries[i];
  });
  of_those(true, [&](const std::vector<Row*>& those) {
    logits_.resize(std::max(logits_.size(), those.size() * vocab));
    engine_.head(std::ssize(those), hidden_.data(), logits_.data());
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
    const Row& row = rows[static_cast<std::size_t>(i)];
    tokens[static_cast<std::size_t>(i)] = row.stream->choose({row.logits, row.best(), row.visits});
  });
  for (std::size_t i = 0; i < rows.size(); ++i)
    if (next(*rows[i].stream, rows[i], tokens[i])) feed(*rows[i].stream, {&*tokens[i], 1});
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
    const std::optional<Token> token = stream.choose({row.logits, row.best(), row.visits});
    const bool goes_on = next(stream, row, token), right = i < drafts.size() && token == drafts[i];
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
    engine_.truncate(stream.sequence, stream.start + agreed + 1);
    if (goes_on) feed(stream, {&*token, 1});
    return;
  }
}

// Whether the stream goes on with the token.
bool Decoder::next(Stream& stream, const Row& row, std::optional<Token> token) {
  ++counts_.tokens;
  counts_.visits += row.visits;
  stream.ended = !token.has_value();
  return !stream.ended;
}

}  // namespace fathom
