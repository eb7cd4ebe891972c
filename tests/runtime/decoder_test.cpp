// Exits, drafts and what becomes of them, against plain loops (sequential.h) and against full depth.
#include "runtime/decoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"
#include "runtime/sampler.h"
#include "runtime/sequential.h"
#include "runtime/small_models.h"

namespace fathom {
namespace {

using testing::HasSubstr;

struct Text {
  std::vector<Token> tokens;
  std::vector<std::int64_t> visits;
  bool operator==(const Text&) const = default;
};

constexpr std::int64_t length = 12;

/// A model of six visits, two of which are exits.
Checkpoint with_exits() {
  Checkpoint model = recursive("llama", 3);
  model.plan.visits[1].exit = model.plan.visits[3].exit = true;
  return model;
}

std::vector<std::vector<Token>> prompts(const Checkpoint& model) {
  std::vector<std::vector<Token>> all;
  for (const std::size_t size : {1, 7, 3, 70, 12}) all.push_back(some_tokens(model, size, size));
  return all;
}

/// Takes in a prompt and records what follows.
class Follower {
 public:
  explicit Follower(std::int64_t count = length, const SamplerOptions& sampler = {})
      : left_(count), sampler_(sampler) {}
  std::optional<Token> operator()(std::span<float> logits, std::int64_t visits) {
    text.tokens.push_back(sampler_.pick(logits, {}));
    text.visits.push_back(visits);
    if (--left_ == 0) return {};
    return text.tokens.back();
  }
  Text text;

 private:
  std::int64_t left_;
  Sampler sampler_;
};

/// All prompts at once, or one joining after every `apart` steps.
std::vector<Text> decode(Engine& engine, const std::vector<std::vector<Token>>& prompts,
                         const DecoderOptions& options, std::int64_t apart = 0, double temperature = 0,
                         Decoder::Counts* counts = nullptr) {
  std::vector<Follower> followers;
  for (std::size_t i = 0; i < prompts.size(); ++i)
    followers.emplace_back(length, SamplerOptions{.temperature = temperature, .seed = i});
  {
    Decoder decoder(engine, options);
    std::size_t joined = 0;
    for (std::int64_t step = 0; joined < prompts.size() || decoder.step(); ++step) {
      if (joined == prompts.size()) continue;
      if (apart > 0 && step % apart != 0) {
        decoder.step();
        continue;
      }
      Follower& follower = followers[joined];
      decoder.add(prompts[joined++],
                  [&follower](const Prediction& p) { return follower(p.logits, p.visits); });
    }
    if (counts != nullptr) *counts = decoder.counts();
  }
  EXPECT_EQ(engine.kv_pages(), 0);
  std::vector<Text> texts;
  for (const Follower& follower : followers) texts.push_back(follower.text);
  return texts;
}

/// What the model's gate after a visit says of a state.
double gate_of(const Checkpoint& model, std::int64_t visit, const std::vector<float>& hidden) {
  if (model.exit_tensor(visit, "gate.weight") == nullptr) return 0;
  const std::vector<float> weight = decode(*model.exit_tensor(visit, "gate.weight"));
  double squares = 0, sum = 0;
  for (std::size_t i = 0; i < hidden.size(); ++i) {
    squares += double{hidden[i]} * hidden[i];
    sum += double{weight[i]} * hidden[i];
  }
  const double rms = std::sqrt(squares / static_cast<double>(hidden.size()) + model.config.norm_eps);
  return 1 / (1 + std::exp(-sum / rms - decode(*model.exit_tensor(visit, "gate.bias"))[0]));
}

/// What a head says of a shortlist's tokens alone, if there is one.
RowSummary short_summary(const Checkpoint& model, const std::vector<float>& logits) {
  const std::vector<std::int64_t> tokens = model.shortlist();
  if (tokens.empty()) return summary_of(logits);
  std::vector<float> some;
  for (const std::int64_t token : tokens) some.push_back(logits[static_cast<std::size_t>(token)]);
  RowSummary summary = summary_of(some);
  summary.best = tokens[static_cast<std::size_t>(summary.best)];
  return summary;
}

/// The same by plain loops, where `rule` decides.
Text sequentially(const Checkpoint& model, const std::vector<Token>& prompt, ExitedKv policy,
                  const ExitRule& rule) {
  Sequential plain(model, policy);
  Follower follower;
  Sequential::Output output = plain.prompt(prompt);
  const Exits exits = rule.exits(model.plan);
  for (;;) {
    const auto token = follower(output.logits, output.visits);
    if (!token) return follower.text;
    std::vector<float> before;
    std::vector<RowSummary> heads;
    output = plain.take(
        *token, exits,
        [&](std::int64_t visit, const std::vector<float>& hidden, const std::vector<float>& logits) {
          heads.push_back(short_summary(model, logits));
          const bool leaves = rule.leaves({.visit = visit,
                                           .hidden = hidden,
                                           .before = before,
                                           .heads = heads,
                                           .gate = gate_of(model, visit, hidden)});
          before = hidden;
          return leaves;
        });
  }
}

struct Case {
  const char* rule;
  ExitedKv policy;
};
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const char* rule : {"depth:1", "depth:4", "top1:0.15", "margin:0.02", "entropy:3.6", "change:0.75",
                           "cosine:0.75", "agree:2"})
    for (const ExitedKv policy :
         {ExitedKv::exact, ExitedKv::copy, ExitedKv::skip, ExitedKv::share, ExitedKv::single})
      if (std::string(rule) != "depth:1" || policy < ExitedKv::share) all.push_back({rule, policy});
  return all;
}

TEST(Decoder, TokensLeaveAndAreSeenAsInPlainLoops) {
  const Checkpoint model = with_exits();
  Engine of_visits(model), of_layers(model, {.single_slot = true});
  const auto texts = prompts(model);
  std::map<std::string, std::set<std::int64_t>> depths;
  for (const auto& [name, policy] : cases()) {
    Engine& engine = policy == ExitedKv::single ? of_layers : of_visits;
    const auto rule = parse_exit_rule(name, model.plan);
    const DecoderOptions options = {.exit = rule, .exited_kv = policy};
    const auto got = decode(engine, texts, options);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(got[i], sequentially(model, texts[i], policy, *rule))
          << name << " " << exited_kv_names[static_cast<int>(policy)] << ", prompt " << i;
      depths[name].insert(got[i].visits.begin() + 1, got[i].visits.end());
    }
    for (const std::int64_t apart : {1, 3, 8})
      EXPECT_EQ(decode(engine, texts, options, apart), got) << name << ", " << apart << " steps apart";
  }
  for (const auto& [name, seen] : depths)
    EXPECT_GT(seen.size(), name.starts_with("depth") ? 0U : 1U) << name << " decides nothing here";
}

// The same where exits have translators, gates and a shortlist.
TEST(Decoder, WhatExitsHaveOfTheirOwnIsAskedAsInPlainLoops) {
  const Checkpoint plain = with_exits();
  Checkpoint model = plain;
  add_exit_parts(model);
  Engine engine(model), engine_of_plain(plain);
  const auto texts = prompts(model);
  for (const std::string name :
       {"depth:2", "depth:4", "gate:0.5", "margin:0.02", "top1:0.2", "agree:2", "cosine:0.75"}) {
    const auto rule = parse_exit_rule(name, model.plan);
    const DecoderOptions options = {.exit = rule};
    Decoder::Counts counts;
    const auto got = decode(engine, texts, options, 0, 0, &counts);
    std::set<std::int64_t> depths;
    for (std::size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(got[i], sequentially(model, texts[i], ExitedKv::exact, *rule)) << name << ", prompt " << i;
      depths.insert(got[i].visits.begin() + 1, got[i].visits.end());
    }
    EXPECT_GT(depths.size(), name.starts_with("depth") ? 0U : 1U) << name << " decides nothing here";
    EXPECT_EQ(counts.shortlists > 0, rule->asks_head()) << name;
    EXPECT_EQ(decode(engine, texts, options, 3), got) << name;
    if (!rule->asks_gate()) {
      EXPECT_NE(decode(engine_of_plain, texts, options), got) << name << " is the same without";
    }
  }
  // Full depth, and what it makes of drafts, knows nothing of all that.
  const auto full = decode(engine_of_plain, texts, {});
  EXPECT_EQ(decode(engine, texts, {}), full);
  Decoder::Counts counts;
  const auto drafted = decode(engine, texts, {.draft = {4, 3}}, 0, 0, &counts);
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(drafted[i].tokens, full[i].tokens);
  EXPECT_GE(counts.shortlists, counts.drafted);
}

// Whatever is drafted, at any batch size and sampled or not: the tokens of full depth, to the last one.
TEST(Decoder, DraftsChangeNoToken) {
  const Checkpoint model = with_exits();
  for (const Compute compute : {Compute::f32, Compute::bf16, Compute::int8}) {
    Engine engine(model, {.compute = compute});
    const auto texts = prompts(model);
    for (const double temperature : {0.0, 1.0}) {
      const auto expected = decode(engine, texts, {}, 0, temperature);
      for (const std::int64_t visits : {1, 2, 4, 5})
        for (const std::int64_t most : {1, 3, 8}) {
          const DecoderOptions options = {.draft = {visits, most}};
          Decoder::Counts counts;
          const auto together = decode(engine, texts, options, 0, temperature, &counts);
          for (std::size_t i = 0; i < texts.size(); ++i)
            EXPECT_EQ(together[i].tokens, expected[i].tokens) << visits << " visits draft, prompt " << i;
          EXPECT_EQ(decode(engine, texts, options, 2, temperature), together);
          EXPECT_EQ(decode(engine, {texts[1]}, options, 0, temperature)[0].tokens.size(),
                    std::size_t{length});
          EXPECT_GT(counts.drafted, counts.accepted);
          EXPECT_GE(counts.passed, counts.verified);
        }
    }
  }
}

// With room for three pages of positions at each visit: all begin, and have no room to go on.
TEST(Decoder, WhoeverGivesWayWritesTheSameText) {
  const Checkpoint model = with_exits();
  const auto engine_of = [&](std::int64_t pages, bool single) {
    const std::int64_t slots = single ? 2 : model.plan.depth();
    return Engine(model, {.kv_memory = pages * page_positions * slots * Engine(model).kv_bytes(),
                          .single_slot = single});
  };
  Engine engines[] = {engine_of(30, false), engine_of(30, true)};
  Engine small[] = {engine_of(3, false), engine_of(3, true)};
  std::vector<std::vector<Token>> texts;
  for (const std::size_t size : {60, 55, 58, 3, 100}) texts.push_back(some_tokens(model, size, size));
  std::vector<DecoderOptions> all = {{}, {.draft = {2, 3}}, {.draft = {4, 8}}};
  for (const auto& [name, policy] : cases())
    all.push_back({.exit = parse_exit_rule(name, model.plan), .exited_kv = policy});
  for (std::size_t i = 0; i < all.size(); ++i)
    for (const std::int64_t apart : {0, 3}) {
      const int single = all[i].exited_kv == ExitedKv::single ? 1 : 0;
      Decoder::Counts counts;
      EXPECT_EQ(decode(small[single], texts, all[i], apart, 0.5, &counts),
                decode(engines[single], texts, all[i], 0, 0.5))
          << i << ", " << apart << " steps apart";
      EXPECT_GT(counts.given_back, 0);
    }
}

TEST(Decoder, WhoeverHasNoRoomLeftEndsAlone) {
  const Checkpoint model = with_exits();
  Engine engine(model, {.kv_memory = 3 * page_positions * model.plan.depth() * Engine(model).kv_bytes()});
  const auto beginning = some_tokens(model, 60);
  const int other = engine.open(), a = engine.open(), b = engine.open();
  const Feed feed = {.sequence = other, .tokens = beginning};  // holds a page all the time
  engine.forward({&feed, 1});
  Decoder decoder(engine);
  std::int64_t first = 0, second = 0;
  const auto count = [](std::int64_t& written, std::int64_t most) {
    return [&written, most](const Prediction& p) {
      return ++written == most ? std::nullopt : std::optional(p.best);
    };
  };
  decoder.add(a, some_tokens(model, 120), count(first, 30), Decoder::Wants::best);
  decoder.add(b, some_tokens(model, 50), count(second, 20), Decoder::Wants::best);
  EXPECT_THROW(while (decoder.step()){}, Error);
  EXPECT_EQ(first, 9);  // 128 tokens, and the one after them
  engine.close(a);
  while (decoder.step()) {
  }
  EXPECT_EQ(second, 20);
  EXPECT_EQ(engine.length(other), 60);
}

// While a long prompt goes through, those who generate get a token for each of its chunks.
TEST(Decoder, ALongPromptHoldsNobodyUp) {
  Checkpoint model = with_exits();
  model.config.max_positions = 6000;
  Engine engine(model);
  const auto prompt = some_tokens(model, 5000), word = some_tokens(model, 1);
  Decoder decoder(engine);
  std::int64_t written = 0, written_before = -1;
  const int a = engine.open(), b = engine.open();
  decoder.add(
      a, word, [&](const Prediction& p) { return ++written, std::optional(p.best); }, Decoder::Wants::best);
  for (int i = 0; i < 3; ++i) decoder.step();
  decoder.add(
      b, prompt,
      [&](const Prediction&) -> std::optional<Token> {
        written_before = written;
        return {};
      },
      Decoder::Wants::best);
  while (written_before < 0) decoder.step();
  EXPECT_GE(written_before, 5000 / 512);
}

// More tokens that have left, and wait for one that goes on, than a step has rows.
TEST(Decoder, TokensThatWaitKeepNoOthersOut) {
  const Checkpoint model = with_exits();
  Engine engine(model);
  std::vector<std::vector<Token>> texts;
  for (std::size_t i = 0; i < 60; ++i) texts.push_back(some_tokens(model, 5, i));
  for (const ExitedKv policy : {ExitedKv::exact, ExitedKv::copy, ExitedKv::skip}) {
    const auto got =
        decode(engine, texts, {.exit = parse_exit_rule("depth:1", model.plan), .exited_kv = policy});
    EXPECT_EQ(got.back().visits.back(), 1);
  }
}

// A model that is certain at its exit drafts what is accepted.
TEST(Decoder, DraftsOfAModelThatOnlyRepeatsAreAccepted) {
  Checkpoint model = with_exits();
  // Later visits that add nothing: full depth says what the exit says.
  for (std::size_t v = 2; v < model.plan.visits.size(); ++v) {
    Visit& visit = model.plan.visits[v];
    visit.layer = model.plan.layers;
    visit.adapter = -1;
  }
  for (const auto& [name, tensor] : std::map(model.tensors)) {
    const std::string prefix = layer_name(0, "");
    if (!name.starts_with(prefix)) continue;
    const std::string own = name.substr(prefix.size());
    const bool adds = own.starts_with("self_attn.o_proj") || own.starts_with("mlp.down_proj");
    std::vector<float> values = decode(tensor);
    if (adds) std::ranges::fill(values, 0.0F);
    model.tensors[layer_name(model.plan.layers, own)] = make_tensor(DType::f32, tensor.shape, values);
  }
  ++model.plan.layers;
  Engine engine(model);
  Decoder::Counts counts;
  decode(engine, prompts(model), {.draft = {2, 4}}, 0, 0, &counts);
  // Each pass has one token more than was accepted; the last of each text ends it.
  EXPECT_GE(counts.accepted + std::ssize(prompts(model)) + counts.verified, counts.passed);
  EXPECT_GT(counts.passed, 3 * counts.verified);
}

TEST(Decoder, WhatIsTakenBackLeavesNothingBehind) {
  const Checkpoint model = with_exits();
  Engine engine(model);
  const auto texts = prompts(model);
  const DecoderOptions options = {.exit = parse_exit_rule("top1:0.15", model.plan)};
  const auto expected = decode(engine, texts, options);
  for (const int steps : {0, 1, 5, 20, 33}) {
    std::vector<int> sequences;
    {
      Decoder decoder(engine, options);
      for (const auto& text : texts) {
        sequences.push_back(engine.open());
        decoder.add(
            sequences.back(), text, [](const Prediction& p) { return std::optional(p.best); },
            Decoder::Wants::best);
      }
      for (int i = 0; i < steps; ++i) decoder.step();
    }
    for (const int sequence : sequences) engine.close(sequence);
    EXPECT_EQ(engine.kv_pages(), 0);
    EXPECT_EQ(decode(engine, texts, options), expected) << "after " << steps << " steps";
  }
}

TEST(Decoder, AnErrorOfOneChoiceLeavesAWorkingEngine) {
  const Checkpoint model = with_exits();
  Engine engine(model);
  const auto texts = prompts(model);
  const auto expected = decode(engine, texts, {});
  std::vector<int> sequences;
  EXPECT_THROW(
      {
        Decoder decoder(engine, {.draft = {2, 3}});
        for (const auto& text : texts) {
          sequences.push_back(engine.open());
          decoder.add(sequences.back(), text,
                      [count = 0](const Prediction& p) mutable -> std::optional<Token> {
                        if (++count == 4) fail("four");
                        return static_cast<Token>(std::ranges::max_element(p.logits) - p.logits.begin());
                      });
        }
        while (decoder.step()) {
        }
      },
      Error);
  for (const int sequence : sequences) engine.close(sequence);
  EXPECT_EQ(engine.kv_pages(), 0);
  EXPECT_EQ(decode(engine, texts, {}), expected);
}

TEST(Decoder, AnErrorOfOneChoiceEndsThatTextAlone) {
  const Checkpoint model = with_exits();
  Engine engine(model);
  const auto texts = prompts(model);
  for (const DecoderOptions& options : {DecoderOptions{}, DecoderOptions{.draft = {2, 3}}}) {
    const auto expected = decode(engine, texts, options);
    std::vector<Follower> followers(texts.size());
    Decoder decoder(engine, options);
    for (std::size_t i = 0; i < texts.size(); ++i)
      decoder.add(texts[i], [&followers, i](const Prediction& p) {
        if (i == 2 && followers[i].text.tokens.size() == 4) fail("four");
        return followers[i](p.logits, p.visits);
      });
    EXPECT_THROW(while (decoder.step()){}, Error);
    while (decoder.step()) {
    }
    for (std::size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(followers[i].text == expected[i], i != 2) << i;
    }
    EXPECT_EQ(engine.kv_pages(), 0);
  }
}

// Feeds, forks, cancellations, cuts, exits and memory that runs out in any order: no page and no row is lost,
// and what a sequence holds is what its tokens make of an empty one.
TEST(Decoder, RandomSchedulesLeaveNothingBehind) {
  Checkpoint model = with_exits();
  model.config.max_positions = 150;
  Engine engine(model, {.kv_memory = 8 * page_positions * model.plan.depth() * Engine(model).kv_bytes()});
  Engine fresh(model);
  Random random(11);
  const auto below = [&](std::int64_t count) {
    return static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(count)));
  };
  const Exits exits = {true, false, true, false, true, false};
  struct Live {
    int sequence = 0;
    std::vector<Token> tokens = {};
    std::int64_t ticket = -1;
    bool whole = true;  // later tokens see what full depth has
  };
  std::vector<Live> live;
  std::int64_t refused = 0, forks = 0, checked = 0;
  const auto feed = [&](Live& one, std::size_t count, const Exits* stops) {
    const auto tokens = some_tokens(model, count, random.next());
    const Feed asked = {.sequence = one.sequence, .tokens = tokens, .exits = stops};
    const bool has_room = engine.has_room(asked);
    try {
      one.ticket = engine.submit(asked);
      one.tokens.insert(one.tokens.end(), tokens.begin(), tokens.end());
      EXPECT_TRUE(has_room);
    } catch (const Error&) {
      EXPECT_FALSE(has_room);
      ++refused;
    }
  };
  const auto check = [&](const Live& one) {
    const Feed next = {.sequence = one.sequence, .tokens = std::span(one.tokens).first(1)};
    if (!one.whole || std::ssize(one.tokens) >= engine.max_context() || !engine.has_room(next)) return;
    std::vector<Token> all = one.tokens;
    all.push_back(one.tokens.front());
    const int sequence = fresh.open();
    const Feed again = {.sequence = sequence, .tokens = all};
    const auto ticket = engine.submit(next);
    while (!engine.finished(ticket)) {
      engine.step();
      for (const AtExit& at : engine.at_exits()) engine.go_on(at.ticket);
    }
    EXPECT_EQ(engine.take(ticket), fresh.forward({&again, 1}));
    fresh.close(sequence);
    ++checked;
  };
  for (int round = 0; round < 10'000; ++round) {
    if (live.size() < 6 && below(4) == 0) live.push_back({engine.open()});
    if (live.empty()) continue;
    Live& one = live[static_cast<std::size_t>(below(std::ssize(live)))];
    const std::int64_t what = below(16), held = engine.length(one.sequence);
    if (one.ticket >= 0) {
      if (what == 0) {
        engine.cancel(std::exchange(one.ticket, -1));
        one.tokens.resize(static_cast<std::size_t>(engine.length(one.sequence)));
      } else if (engine.finished(one.ticket)) {
        EXPECT_EQ(std::ssize(engine.take(std::exchange(one.ticket, -1))), model.config.hidden_size);
      } else {
        engine.step();
      }
    } else if (what < 6 && held < 100) {
      feed(one, static_cast<std::size_t>(1 + below(50)), nullptr);
    } else if (what < 12 && held > 0 && held < 150) {
      feed(one, 1, &exits);
    } else if (what == 12) {
      one.tokens.resize(static_cast<std::size_t>(below(held + 1)));
      engine.truncate(one.sequence, std::ssize(one.tokens));
    } else if (what < 15 && live.size() < 8) {
      Live other = one;
      other.sequence = engine.fork(one.sequence);
      live.push_back(std::move(other));
      ++forks;
    } else {
      if (held > 0) check(one);
      engine.close(one.sequence);
      live.erase(live.begin() + (&one - live.data()));
    }
    for (const AtExit& at : engine.at_exits()) {
      if (below(2) == 0) {
        engine.go_on(at.ticket);
        continue;
      }
      const auto policy = below(8) > 0 ? ExitedKv::exact : static_cast<ExitedKv>(below(3));
      if (policy != ExitedKv::exact) std::ranges::find(live, at.ticket, &Live::ticket)->whole = false;
      engine.leave(at.ticket, policy);
    }
  }
  for (const Live& one : live) {
    if (one.ticket >= 0) engine.cancel(one.ticket);
    engine.close(one.sequence);
  }
  EXPECT_EQ(engine.kv_pages(), 0);
  EXPECT_FALSE(engine.step());
  EXPECT_GT(refused, 50);
  EXPECT_GT(forks, 200);
  EXPECT_GT(checked, 50);
  const auto all = some_tokens(model, 128);  // of what there was, nothing is still promised to anybody
  for (int i = 0; i < 4; ++i) {
    const Feed last = {.sequence = engine.open(), .tokens = all};
    EXPECT_EQ(engine.forward({&last, 1}).size(), static_cast<std::size_t>(model.config.hidden_size));
  }
}

TEST(Decoder, WhatThePlanDoesNotAllowIsRefused) {
  const Checkpoint plain = load("llama"), model = with_exits();
  Engine engine(model);
  EXPECT_THROW(Decoder(engine, {.draft = {6, 3}}), UsageError);
  EXPECT_THROW(
      Decoder(engine, {.exit = parse_exit_rule("depth:1", model.plan), .exited_kv = ExitedKv::share}),
      UsageError);
  EXPECT_THROW(Decoder(engine, {.exit = parse_exit_rule("top1", model.plan), .draft = {2, 3}}), UsageError);
  Engine single(model, {.single_slot = true});
  for (Engine* wrong : {&engine, &single})
    EXPECT_THROW(Decoder(*wrong, {.exit = parse_exit_rule("depth:4", model.plan),
                                  .exited_kv = wrong == &single ? ExitedKv::copy : ExitedKv::single}),
                 UsageError);
  EXPECT_THROW(Decoder(single, {.exited_kv = ExitedKv::single, .draft = {2, 3}}), UsageError);
  for (const char* wrong : {"top2", "top1:", "top1:x", "top1:-1", "top1:0.5x", "agree:1e300", "top1:nan",
                            "depth:0", "depth:6", ""})
    EXPECT_THROW(parse_exit_rule(wrong, model.plan), UsageError) << wrong;
  EXPECT_THROW(Decoder(engine, {.exit = parse_exit_rule("gate", model.plan)}), UsageError);  // has none
  EXPECT_THROW(Decoder(engine, {.exit = parse_exit_rule("oracle", model.plan)}),
               UsageError);  // knows nothing
  try {
    parse_exit_rule("margin:0.5", plain.plan);
    FAIL() << "a model without exits was accepted";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), HasSubstr("marks no exits"));
  }
}

}  // namespace
}  // namespace fathom
