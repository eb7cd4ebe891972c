#include "runtime/engine.h"

#include <algorithm>
#include <deque>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "base/error.h"
#include "base/progress.h"
#include "base/threads.h"
#include "runtime/kv_cache.h"
#include "runtime/layer.h"
#include "runtime/lm_head.h"
#include "runtime/model.h"
#include "runtime/row_pool.h"

namespace fathom {
namespace {

// Rows in one step. Beyond about 500 rows a product is bound by arithmetic, not by reading its weights, and a
// batch's intermediate values would leave the caches (512 rows of 1536 floats are 3 MB). Of many cores each
// has its own: with 16 and 512 rows, 128 for a quarter of the outputs would be all that one computes.
std::int64_t batch_rows() { return 128 * std::max(4, thread_count()); }

std::int64_t context_limit(const Model& model, const EngineOptions& options) {
  const std::int64_t own = model.config.max_positions;
  if (options.max_context == 0) return own > 0 ? own : std::numeric_limits<std::int32_t>::max();
  if (options.max_context < 0 || (own > 0 && options.max_context > own))
    fail("a context of {} tokens was asked for, but {} has at most {}", options.max_context, model.source,
         own);
  return options.max_context;
}

KvLayout kv_layout(const Model& model, const EngineOptions& options) {
  const Compute beside = model.compute == Compute::f32 ? Compute::f32 : Compute::bf16;
  return {.kv_heads = model.config.kv_heads,
          .head_dim = model.config.head_dim,
          .type = options.kv.value_or(beside)};
}

// Of each visit: its own, or its layer's.
std::vector<std::int64_t> kv_slots(const DepthPlan& plan, bool single) {
  std::map<std::int64_t, std::int64_t> known;
  std::vector<std::int64_t> slots;
  for (std::int64_t v = 0; v < plan.depth(); ++v) {
    const std::int64_t of = single ? plan.visits[static_cast<std::size_t>(v)].layer : v;
    slots.push_back(known.emplace(of, std::ssize(known)).first->second);
  }
  return slots;
}

// The last of the visits before `end` that is of the same layer as a later one; -1: none.
std::int64_t same_layer_before(const DepthPlan& plan, std::int64_t end, std::int64_t later) {
  const auto layer = [&](std::int64_t visit) { return plan.visits[static_cast<std::size_t>(visit)].layer; };
  std::int64_t visit = end - 1;
  while (visit >= 0 && layer(visit) != layer(later)) --visit;
  return visit;
}

// A feed on its way: tokens that have not begun yet, and what its end will return.
struct Ticket {
  int sequence = 0;
  std::vector<Token> tokens;
  std::vector<float> states;   // in place of their embeddings, if not empty
  std::int64_t first = 0;      // position of tokens[0]
  std::int64_t begun = 0;      // tokens that are in the pool or through
  std::int64_t done = 0;       // tokens that are through
  std::int64_t keep_from = 0;  // position
  Exits exits;
  std::vector<float> kept;

  std::int64_t count() const { return static_cast<std::int64_t>(tokens.size()); }
};

}  // namespace

struct Engine::State {
  State(std::shared_ptr<const Model> shared, DepthPlan path, const EngineOptions& options)
      : model(std::move(shared)),
        config(model->config),
        plan(std::move(path)),
        backend(model->make_backend()),
        weights(model->weights),
        cache(kv_layout(*model, options), kv_slots(plan, options.single_slot), options.kv_memory),
        kv_memory(options.kv_memory),
        single_slot(options.single_slot),
        max_context(std::min(context_limit(*model, options), cache.most_positions())),
        pool(config.hidden_size),
        runner(config, plan, weights, *backend, {cache.layout(), row_type(weights)}),
        head(config, weights, *backend) {
    if (plan.visits.empty()) fail("{}: the depth plan has no visits", model->source);
    for (const Visit& visit : plan.visits)
      if (visit.layer >= std::ssize(weights.layers) || visit.adapter >= std::ssize(weights.adapters))
        fail("{}: the plan visits layer {} with adapter {}, but the model has {} and {}", model->source,
             visit.layer, visit.adapter, weights.layers.size(), weights.adapters.size());
  }

  std::int64_t count(const Feed& feed) const;
  void check(const Feed& feed) const;
  std::int64_t unwritten(int sequence) const { return pool.first_parked(sequence, cache.length(sequence)); }
  const Ticket& ticket(std::int64_t number) const;
  void admit(std::int64_t most_rows);
  void run_picked(std::span<const Run> runs, Observer* observer);
  void collect();
  void keep(Ticket& ticket, const Run& run, const float* hidden) const;
  void share_visits(const Run& run);
  void check_idle(int sequence) const;
  template <typename Verdict>
  void judge(std::int64_t ticket, const Verdict& verdict);

  std::shared_ptr<const Model> model;
  const ModelConfig& config;
  DepthPlan plan;
  std::unique_ptr<Backend> backend;
  const Weights& weights;
  KvCache cache;
  std::int64_t kv_memory;
  bool single_slot;
  std::int64_t max_context;
  RowPool pool;
  LayerRunner runner;
  LmHead head;

  std::int64_t next_ticket = 0;
  std::map<std::int64_t, Ticket> tickets;
  std::deque<std::int64_t> queue;  // tickets with tokens that have not begun
  std::vector<std::int64_t> positions;
  std::vector<AttentionSpan> spans;
  std::vector<int> sequences;  // of the spans
  std::vector<VisitRows> visits;
};

std::int64_t Engine::State::count(const Feed& feed) const {
  return feed.states.empty() ? std::ssize(feed.tokens) : std::ssize(feed.states) / config.hidden_size;
}

void Engine::State::check(const Feed& feed) const {
  if (!feed.states.empty() && (!feed.tokens.empty() || std::ssize(feed.states) % config.hidden_size != 0))
    fail("{} values were fed as states of width {}, beside {} tokens", feed.states.size(), config.hidden_size,
         feed.tokens.size());
  const std::int64_t count = this->count(feed);
  const std::int64_t length = cache.length(feed.sequence);
  for (const Token token : feed.tokens)
    if (token < 0 || token >= config.vocab_size)
      fail(
          "token id {} is outside the vocabulary of {} tokens: the tokenizer is not this model's, or names "
          "tokens that the model has no embedding for",
          token, config.vocab_size);
  if (count > max_context - length)
    fail("{} tokens after {} exceed the context of {}{}", count, length, max_context,
         max_context < cache.most_positions()
             ? ""
             : fmt::format(", for which the {} for keys and values are enough", format_bytes(kv_memory)));
  if (feed.keep < 0 || feed.keep > count)
    fail("hidden states of {} tokens were asked for, but {} are fed", feed.keep, count);
  if (feed.exits != nullptr && count != 1)
    fail("{} tokens were fed to stop at exits, but they do so one by one", count);
  if (feed.exits != nullptr && std::ssize(*feed.exits) != plan.depth())
    fail("exits of {} visits were given, but the plan has {}", feed.exits->size(), plan.depth());
  if (single_slot) check_idle(feed.sequence);
}

// Lets queued tokens begin: single ones, of sequences that generate, at once, and then go with the next chunk
// of whatever prompt is on its way; prompts in the order in which they came, as long as there is room for
// their rows. Where visits share a slot a prompt is not divided: its later part would see of the earlier one
// what the last visit left.
void Engine::State::admit(std::int64_t most_rows) {
  if (queue.empty()) return;
  const auto begin = [&](std::int64_t number, std::int64_t most) {
    Ticket& ticket = tickets.at(number);
    const std::int64_t count = std::min(ticket.count() - ticket.begun, most);
    cache.take(ticket.sequence, ticket.first + ticket.begun + count);
    float* hidden = pool.add(
        {.feed = number, .sequence = ticket.sequence, .first = ticket.first + ticket.begun, .count = count});
    if (ticket.states.empty())
      embed(config, weights.embedding,
            std::span(ticket.tokens)
                .subspan(static_cast<std::size_t>(ticket.begun), static_cast<std::size_t>(count)),
            hidden);
    else
      std::copy_n(ticket.states.begin() + ticket.begun * config.hidden_size, count * config.hidden_size,
                  hidden);
    ticket.begun += count;
    return ticket.begun == ticket.count();
  };
  std::set<int> behind;  // sequences whose earlier tokens have not all begun
  std::erase_if(queue, [&](std::int64_t number) {
    const Ticket& ticket = tickets.at(number);
    if (ticket.count() == 1 && !behind.contains(ticket.sequence)) return begin(number, 1);
    behind.insert(ticket.sequence);
    return false;
  });
  while (!queue.empty() && pool.rows() < most_rows) {
    const std::int64_t room = single_slot ? tickets.at(queue.front()).count() : most_rows - pool.rows();
    if (begin(queue.front(), room)) queue.pop_front();
  }
}

// Neighbours of one sequence at one visit become one span: the later ones see the earlier ones' keys.
void Engine::State::run_picked(std::span<const Run> runs, Observer* observer) {
  positions.clear();
  spans.clear();
  visits.clear();
  sequences.clear();
  spans.reserve(runs.size());  // visits refer to them
  const Run* before = nullptr;
  std::int64_t full = 0;
  for (const Run& run : runs) {
    const auto row = static_cast<std::int64_t>(positions.size());
    for (std::int64_t i = 0; i < run.count; ++i) positions.push_back(run.first + i);
    if (!run.keys_only) full = row + run.count;
    const bool same_visit =
        before != nullptr && before->visit == run.visit && before->keys_only == run.keys_only;
    const std::int64_t entry = cache.entry(run.sequence, run.visit, run.first);
    if (same_visit && before->sequence == run.sequence && spans.back().first + spans.back().count == entry) {
      spans.back().count += run.count;
    } else {
      spans.push_back({.row = row, .count = run.count, .first = entry, .pages = nullptr});
      if (!same_visit)
        visits.push_back({.visit = run.visit, .row = row, .count = 0, .spans = {&spans.back(), 0}});
      VisitRows& group = visits.back();
      group.spans = std::span(group.spans.data(), group.spans.size() + 1);
      sequences.push_back(run.sequence);
    }
    visits.back().count += run.count;
    before = &run;
  }
  std::size_t span = 0;
  for (const VisitRows& group : visits)
    for (std::size_t i = 0; i < group.spans.size(); ++i, ++span)
      spans[span].pages =
          cache.pages_to_write(sequences[span], group.visit, spans[span].first, spans[span].count);
  const Batch batch = {.rows = static_cast<std::int64_t>(positions.size()),
                       .full = full,
                       .hidden = pool.gather(),
                       .positions = positions,
                       .visits = visits};
  runner.run(batch, observer);
  pool.advance();
}

void Engine::State::keep(Ticket& ticket, const Run& run, const float* hidden) const {
  ticket.done += run.count;
  const std::int64_t skipped = std::clamp<std::int64_t>(ticket.keep_from - run.first, 0, run.count);
  ticket.kept.insert(ticket.kept.end(), hidden + skipped * config.hidden_size,
                     hidden + run.count * config.hidden_size);
}

void Engine::State::collect() {
  pool.finish([this](const Run& run) { return run.visit == plan.depth(); },
              [this](const Run& run, const float* hidden) {
                if (run.state != Run::State::left) keep(tickets.at(run.feed), run, hidden);
              });
  std::vector<std::pair<int, std::int64_t>> gone_on;
  pool.each([&](Run& run, const float*) {
    if (run.state != Run::State::under_way || run.asked == run.visit) return;
    const Exits& exits = tickets.at(run.feed).exits;
    if (exits.empty() || !exits[static_cast<std::size_t>(run.visit - 1)]) {
      gone_on.emplace_back(run.sequence, run.visit);
      return;
    }
    run.state = Run::State::at_exit;
    run.asked = run.visit;
  });
  for (const auto& [sequence, visit] : gone_on) pool.wake(sequence, visit);
}

// Gives a token at all later visits what it has at the last of its visits of their layers.
void Engine::State::share_visits(const Run& run) {
  std::vector<std::int64_t> sources;
  for (std::int64_t later = run.visit; later < plan.depth(); ++later) {
    sources.push_back(same_layer_before(plan, run.visit, later));
    if (sources.back() < 0)
      fail("visit {} cannot share keys and values of an earlier one: its layer was not visited before {}",
           later, run.visit);
  }
  for (std::size_t i = 0; i < sources.size(); ++i)
    cache.share(run.sequence, run.first, sources[i], run.visit + static_cast<std::int64_t>(i));
}

void Engine::State::check_idle(int sequence) const {
  for (const auto& [number, ticket] : tickets)
    if (ticket.sequence == sequence && ticket.done < ticket.count())
      fail("sequence {} still has tokens on their way", sequence);
}

template <typename Verdict>
void Engine::State::judge(std::int64_t number, const Verdict& verdict) {
  bool found = false;
  pool.each([&](Run& run, const float* hidden) {
    if (run.state != Run::State::at_exit || run.feed != number) return;
    found = true;
    verdict(run, hidden);
  });
  if (!found) fail("ticket {} waits for no verdict", number);
}

Engine::Engine(std::shared_ptr<const Model> model, DepthPlan plan, const EngineOptions& options)
    : state_(std::make_unique<State>(std::move(model), std::move(plan), options)) {}
Engine::Engine(const Checkpoint& checkpoint, const EngineOptions& options)
    : Engine(std::make_shared<Model>(checkpoint, options.compute, options.cache, options.trace),
             checkpoint.plan, options) {}
Engine::~Engine() = default;
Engine::Engine(Engine&&) noexcept = default;

const ModelConfig& Engine::config() const { return state_->config; }
const DepthPlan& Engine::plan() const { return state_->plan; }
const Backend& Engine::backend() const { return *state_->backend; }
LmHead& Engine::head() { return state_->head; }
std::int64_t Engine::max_context() const { return state_->max_context; }
std::int64_t Engine::weight_bytes() const { return state_->weights.bytes(); }
Compute Engine::kv_type() const { return state_->cache.layout().type; }
Compute Engine::layer_type() const { return state_->weights.layers.front().down->type; }
std::int64_t Engine::kv_bytes() const { return state_->cache.layout().page_bytes() / page_positions; }
std::int64_t Engine::token_kv_bytes() const { return kv_bytes() * state_->cache.slots(); }
bool Engine::single_slot() const { return state_->single_slot; }
std::int64_t Engine::kv_pages() const { return state_->cache.pages_in_use(); }

int Engine::open() { return state_->cache.open(); }

int Engine::fork(int sequence) {
  state_->check_idle(sequence);
  const int copy = state_->cache.fork(sequence);
  state_->pool.fork(sequence, copy);
  return copy;
}

void Engine::close(int sequence) {
  truncate(sequence, 0);
  state_->cache.close(sequence);
}

std::int64_t Engine::length(int sequence) const { return state_->cache.length(sequence); }

void Engine::truncate(int sequence, std::int64_t length) {
  state_->check_idle(sequence);
  state_->cache.truncate(sequence, length);
  state_->pool.truncate(sequence, length);
}

std::vector<float> Engine::forward(std::span<const Feed> feeds, Observer* observer) {
  std::set<int> sequences;
  for (const Feed& feed : feeds) {
    state_->check(feed);
    if (!sequences.insert(feed.sequence).second)
      fail("sequence {} appears twice in one forward call", feed.sequence);
    if (feed.exits != nullptr) fail("a forward call cannot wait for verdicts at exits");
  }
  std::vector<std::int64_t> numbers;
  try {
    for (const Feed& feed : feeds) numbers.push_back(submit(feed));
    while (step(observer)) {
    }
  } catch (...) {  // an observer's, or memory's end: nothing of this call may run on in the next
    for (const std::int64_t number : numbers) cancel(number);
    throw;
  }
  std::vector<float> kept;
  for (const std::int64_t number : numbers) {
    const std::vector<float> own = take(number);
    kept.insert(kept.end(), own.begin(), own.end());
  }
  return kept;
}

std::int64_t Engine::submit(const Feed& feed) {
  state_->check(feed);
  const std::int64_t first = state_->cache.length(feed.sequence);
  const std::int64_t count = state_->count(feed);
  state_->cache.grow(feed.sequence, count, state_->unwritten(feed.sequence));
  const std::int64_t number = state_->next_ticket++;
  Ticket ticket;
  ticket.sequence = feed.sequence;
  ticket.tokens.assign(feed.tokens.begin(), feed.tokens.end());
  ticket.tokens.resize(static_cast<std::size_t>(count));
  ticket.states.assign(feed.states.begin(), feed.states.end());
  ticket.first = first;
  ticket.keep_from = first + ticket.count() - feed.keep;
  if (feed.exits != nullptr) ticket.exits = *feed.exits;
  if (ticket.count() > 0) state_->queue.push_back(number);
  state_->tickets.emplace(number, std::move(ticket));
  return number;
}

bool Engine::has_room(const Feed& feed) const {
  state_->check(feed);
  return state_->cache.can_grow(feed.sequence, state_->count(feed), state_->unwritten(feed.sequence));
}

bool Engine::step(Observer* observer) {
  state_->admit(observer != nullptr ? std::numeric_limits<std::int64_t>::max() : batch_rows());
  const std::span<const Run> runs = state_->pool.pick(state_->plan);
  if (runs.empty()) return false;
  state_->run_picked(runs, observer);
  state_->collect();
  return true;
}

void Engine::cancel(std::int64_t number) {
  const Ticket ticket = state_->ticket(number);
  state_->tickets.erase(number);
  std::erase(state_->queue, number);
  state_->pool.drop([&](const Run& run) { return run.feed == number && run.state != Run::State::left; });
  state_->pool.park(ticket.sequence);
  truncate(ticket.sequence, std::min(ticket.first, length(ticket.sequence)));
}

std::vector<AtExit> Engine::at_exits() const {
  std::vector<AtExit> waiting;
  state_->pool.each([&](const Run& run, const float* hidden) {
    if (run.state == Run::State::at_exit)
      waiting.push_back(
          {run.feed, run.visit - 1, {hidden, static_cast<std::size_t>(state_->config.hidden_size)}});
  });
  return waiting;
}

void Engine::go_on(std::int64_t ticket) {
  Run judged;
  state_->judge(ticket, [&](Run& run, const float*) {
    run.state = Run::State::under_way;
    judged = run;
  });
  state_->pool.wake(judged.sequence, judged.visit);
}

void Engine::leave(std::int64_t ticket, ExitedKv policy) {
  if (state_->single_slot != (policy == ExitedKv::single))
    fail("visits have {} slot a layer, which is not for {}", state_->single_slot ? "one" : "more than one",
         exited_kv_names[static_cast<std::size_t>(policy)]);
  const bool owes = policy == ExitedKv::exact || policy == ExitedKv::copy;
  Run left;
  state_->judge(ticket, [&](Run& run, const float* hidden) {
    if (policy == ExitedKv::share) state_->share_visits(run);
    if (policy == ExitedKv::skip) state_->cache.skip(run.sequence, run.first, run.visit);
    state_->keep(state_->tickets.at(ticket), run, hidden);
    run.state = Run::State::left;
    run.keys_only = policy == ExitedKv::copy;
    left = run;
  });
  if (!owes) state_->pool.drop([&](const Run& run) { return run.feed == ticket; });
  state_->pool.park(left.sequence);
}

std::int64_t Engine::catch_up(int sequence) {
  state_->check_idle(sequence);
  state_->cache.grow(sequence, 0, state_->unwritten(sequence));
  const std::int64_t number = state_->next_ticket++;
  Ticket ticket;
  ticket.sequence = sequence;
  ticket.begun = state_->pool.send(sequence, number);
  ticket.tokens.resize(static_cast<std::size_t>(ticket.begun));
  ticket.first = ticket.keep_from = state_->cache.length(sequence) - ticket.begun;
  state_->tickets.emplace(number, std::move(ticket));
  return number;
}

const Ticket& Engine::State::ticket(std::int64_t number) const {
  const auto found = tickets.find(number);
  if (found == tickets.end()) fail("there is no ticket {}", number);
  return found->second;
}

bool Engine::finished(std::int64_t ticket) const {
  const Ticket& asked = state_->ticket(ticket);
  return asked.done == asked.count();
}

std::vector<float> Engine::take(std::int64_t ticket) {
  if (!finished(ticket)) fail("ticket {} still has tokens on their way", ticket);
  return std::move(state_->tickets.extract(ticket).mapped().kept);
}

bool can_share(const DepthPlan& plan, const Exits& exits) {
  for (std::int64_t exit = 0; exit + 1 < std::min(plan.depth(), std::ssize(exits)); ++exit)
    for (std::int64_t later = exit + 1; exits[static_cast<std::size_t>(exit)] && later < plan.depth();
         ++later)
      if (same_layer_before(plan, exit + 1, later) < 0) return false;
  return true;
}

}  // namespace fathom
