// What must hold for every model: batches, plans, adapters, errors.
#include "runtime/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "logits.h"
#include "oracle.h"
#include "runtime/model.h"
#include "runtime/small_models.h"

namespace fathom {
namespace {

// Merging rounds every weight once more, and hidden states are of size 1 to 10.
constexpr float merged_tolerance = 5e-5F;

Feed all_of(int sequence, std::span<const Token> tokens) {
  return {.sequence = sequence, .tokens = tokens, .keep = static_cast<std::int64_t>(tokens.size())};
}

std::vector<float> hidden_alone(Engine& engine, std::span<const Token> tokens) {
  const int sequence = engine.open();
  const Feed feed = all_of(sequence, tokens);
  auto hidden = engine.forward({&feed, 1});
  engine.close(sequence);
  return hidden;
}

// The model's own layers in the order in which the plan visits them, each with its adapter merged: a plain
// model that does the same.
Checkpoint unrolled(const Checkpoint& model) {
  Checkpoint plain = model;
  plain.tensors.clear();
  std::vector<std::int64_t> types;
  for (const auto& [name, tensor] : model.tensors)
    if (!name.starts_with("model.layers.") && !name.starts_with("model.adapters."))
      plain.tensors[name] = tensor;
  for (std::int64_t v = 0; v < model.plan.depth(); ++v) {
    const Visit& visit = model.plan.visits[static_cast<std::size_t>(v)];
    types.push_back(visit.type);
    const std::string prefix = layer_name(visit.layer, "");
    for (const auto& [name, tensor] : model.tensors) {
      if (!name.starts_with(prefix)) continue;
      const std::string own = name.substr(prefix.size());
      const Tensor* replacement = visit.adapter < 0 ? nullptr : model.adapter_tensor(visit.adapter, own);
      plain.tensors[layer_name(v, own)] = replacement != nullptr ? *replacement : tensor;
      if (visit.adapter < 0 || !own.ends_with(".weight")) continue;
      const std::string base = own.substr(0, own.size() - 7);
      const Tensor* a = model.adapter_tensor(visit.adapter, base + ".lora_A.weight");
      const Tensor* b = model.adapter_tensor(visit.adapter, base + ".lora_B.weight");
      if (a == nullptr) continue;
      auto merged = decode(tensor);
      const auto wa = decode(*a), wb = decode(*b);
      const auto rank = static_cast<std::size_t>(a->rows()), in = static_cast<std::size_t>(a->row_elements());
      for (std::size_t o = 0; o < wb.size() / rank; ++o)
        for (std::size_t i = 0; i < in; ++i)
          for (std::size_t r = 0; r < rank; ++r) merged[o * in + i] += wb[o * rank + r] * wa[r * in + i];
      plain.tensors[layer_name(v, own)] = make_tensor(DType::f32, tensor.shape, merged);
    }
  }
  plain.plan = plain_plan(types);
  return plain;
}

TEST(Engine, ARecursivePlanWithAdaptersEqualsTheUnrolledModelWithMergedWeights) {
  for (const std::string name : {"llama", "gemma2", "qwen3"}) {
    const Checkpoint model = recursive(name, 3);
    Engine looped(model), plain(unrolled(model));
    const auto tokens = some_tokens(model, 40);
    EXPECT_LT(largest_difference(hidden_alone(looped, tokens), hidden_alone(plain, tokens)), merged_tolerance)
        << name;
  }
}

TEST(Engine, SequencesOfOneBatchDoNotDisturbEachOther) {
  const Checkpoint model = load("gemma3");
  Engine engine(model);
  std::vector<std::vector<Token>> texts;
  std::vector<std::vector<float>> alone;
  for (const std::size_t count : {1, 30, 7, 70}) {
    texts.push_back(some_tokens(model, count, count));
    alone.push_back(hidden_alone(engine, texts.back()));
  }
  std::vector<Feed> feeds;
  feeds.reserve(texts.size());
  for (const auto& text : texts) feeds.push_back(all_of(engine.open(), text));
  const auto together = engine.forward(feeds);
  std::size_t begin = 0;
  for (const auto& expected : alone) {
    EXPECT_EQ(largest_difference(std::span(together).subspan(begin, expected.size()), expected), 0);
    begin += expected.size();
  }
  EXPECT_EQ(begin, together.size());
}

TEST(Engine, FeedsThatJoinOnTheWayAreBatchedByLayerAndStayExact) {
  const Checkpoint model = recursive("llama", 3);
  Engine engine(model);
  const auto first = some_tokens(model, 12, 1), second = some_tokens(model, 20, 2),
             third = some_tokens(model, 5, 3);
  const auto alone_first = hidden_alone(engine, first), alone_second = hidden_alone(engine, second);
  const auto alone_third = hidden_alone(engine, third);
  const int a = engine.open(), b = engine.open(), c = engine.open();
  const auto ticket_a = engine.submit(all_of(a, first));
  EXPECT_TRUE(engine.step());
  EXPECT_TRUE(engine.step());
  const auto ticket_b =
      engine.submit(all_of(b, second));  // visit 0 of the layer of which `a` waits for visit 2
  EXPECT_TRUE(engine.step());
  const auto ticket_c = engine.submit(all_of(c, third));
  EXPECT_THROW(engine.take(ticket_c), Error);
  EXPECT_THROW(engine.truncate(c, 0), Error);
  int steps = 3;
  while (engine.step()) ++steps;
  EXPECT_LT(steps, 3 * 6);  // less than one after the other
  EXPECT_EQ(largest_difference(engine.take(ticket_a), alone_first), 0);
  EXPECT_EQ(largest_difference(engine.take(ticket_b), alone_second), 0);
  EXPECT_EQ(largest_difference(engine.take(ticket_c), alone_third), 0);
  EXPECT_THROW(engine.take(ticket_a), Error);
}

TEST(Engine, ALongFeedIsSplitWithoutATrace) {
  Checkpoint model = load("mistral-window");
  model.config.max_positions = 2000;
  Engine engine(model);
  const auto tokens = some_tokens(model, 1300);
  const auto whole = hidden_alone(engine, tokens);
  class Count : public Observer {
   public:
    void observe(Tap, std::int64_t, std::int64_t rows, std::span<const float>) override {
      all &= rows == 1300;
    }
    bool all = true;
  } count;
  const int sequence = engine.open();
  const Feed feed = all_of(sequence, tokens);
  EXPECT_EQ(largest_difference(engine.forward({&feed, 1}, &count), whole), 0);
  EXPECT_TRUE(count.all);
  const Feed last = {.sequence = engine.open(), .tokens = tokens, .keep = 2};
  const auto kept = engine.forward({&last, 1});
  EXPECT_EQ(largest_difference(kept, std::span(whole).last(kept.size())), 0);
  EXPECT_EQ(kept.size(), 2U * static_cast<std::size_t>(model.config.hidden_size));
}

TEST(Engine, ClosedSequencesLeaveTheirPagesToNewOnes) {
  const Checkpoint model = load("llama");
  Engine engine(model);
  const auto tokens = some_tokens(model, 100);
  const auto before = hidden_alone(engine, tokens);
  EXPECT_EQ(hidden_alone(engine, tokens), before);
  const int sequence = engine.open();
  EXPECT_EQ(engine.length(sequence), 0);
  const Feed feed = all_of(sequence, tokens);
  engine.forward({&feed, 1});
  EXPECT_EQ(engine.length(sequence), 100);
  engine.truncate(sequence, 64);
  EXPECT_EQ(engine.length(sequence), 64);
}

// A key, a value and, by tiles, a query is off by at most 1/254 of the largest of its head, by about half
// that on average. Through some layers logits' differences, as a root of their mean square, stay within 3 %
// of the logits'.
TEST(Engine, KeysAndValuesInEightBitsStayNearFloats) {
  for (const std::string name : {"llama", "gemma2", "gemma3", "mistral-window", "qwen3"}) {
    const Checkpoint model = load(name);
    Engine exact(model), engine(model, {.kv = Compute::int8});
    EXPECT_EQ(exact.kv_type(), Compute::f32);
    EXPECT_EQ(engine.kv_type(), Compute::int8);
    const auto tokens = some_tokens(model, 100);
    const auto expected = logits_of(exact, tokens), got = logits_of(engine, tokens);
    double differences = 0, squares = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      differences += std::pow(double{got[i]} - expected[i], 2);
      squares += std::pow(double{expected[i]}, 2);
    }
    EXPECT_LT(std::sqrt(differences / squares), 0.03) << name;
    EXPECT_GT(differences, 0) << name;
  }
}

TEST(Engine, PagesOfEightBitsAreUsedAgainWithoutATrace) {
  const Checkpoint model = load("llama");
  Engine engine(model, {.compute = Compute::bf16, .kv = Compute::int8});
  const auto tokens = some_tokens(model, 100), others = some_tokens(model, 110, 1);
  const auto alone = hidden_alone(engine, tokens);
  hidden_alone(engine, others);  // leaves its pages behind
  const int sequence = engine.open();
  for (const std::int64_t kept : {70, 64, 3, 0}) {  // of which only `kept` tokens are to be seen
    const auto begin = std::span(tokens).first(static_cast<std::size_t>(kept));
    engine.truncate(sequence, 0);
    const Feed first = all_of(sequence, begin);
    const Feed junk = {.sequence = sequence, .tokens = std::span(others).first(30)};
    if (kept > 0) engine.forward({&first, 1});
    engine.forward({&junk, 1});
    engine.truncate(sequence, kept);
    const Feed rest = all_of(sequence, std::span(tokens).subspan(begin.size()));
    const auto got = engine.forward({&rest, 1});
    EXPECT_EQ(largest_difference(got, std::span(alone).last(got.size())), 0) << kept;
  }
}

// For so many pages of positions at each visit.
std::int64_t kv_memory(const Checkpoint& model, std::int64_t pages) {
  return pages * page_positions * model.plan.depth() * Engine(model).kv_bytes();
}

TEST(Engine, MemoryForKeysAndValuesIsTakenAsTokensBegin) {
  Checkpoint model = load("llama");
  model.config.max_positions = 4000;
  Engine engine(model);
  const auto prompt = some_tokens(model, 4000);
  std::vector<std::int64_t> tickets;
  for (int i = 0; i < 100; ++i) tickets.push_back(engine.submit({engine.open(), prompt}));
  EXPECT_EQ(engine.kv_pages(), 0);
  engine.step();
  EXPECT_GT(engine.kv_pages(), 0);
  EXPECT_LT(engine.kv_pages(), 4000 / page_positions * model.plan.depth());
  for (const std::int64_t ticket : tickets) engine.cancel(ticket);
  EXPECT_EQ(engine.kv_pages(), 0);
}

TEST(Engine, WithoutRoomNothingIsTakenAndTheOthersGoOn) {
  const Checkpoint model = load("llama");
  Engine engine(model, {.kv_memory = kv_memory(model, 3)});
  const auto text = some_tokens(model, 70), other = some_tokens(model, 65, 1);
  const auto expected = hidden_alone(engine, text), expected_other = hidden_alone(engine, other);
  EXPECT_EQ(engine.max_context(), std::min(3 * page_positions, model.config.max_positions));
  const int a = engine.open(), b = engine.open();
  const auto ticket = engine.submit(all_of(a, text));
  engine.step();
  EXPECT_FALSE(engine.has_room(all_of(b, other)));
  EXPECT_TRUE(engine.has_room({b, std::span(other).first(64)}));
  try {
    engine.submit(all_of(b, other));
    FAIL() << "more than there is room for was taken in";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("65 more positions"));
    EXPECT_THAT(error.what(), testing::HasSubstr(format_bytes(kv_memory(model, 2))));
    EXPECT_THAT(error.what(), testing::HasSubstr(format_bytes(kv_memory(model, 3))));
  }
  EXPECT_EQ(engine.length(b), 0);
  while (engine.step()) {
  }
  EXPECT_EQ(engine.take(ticket), expected);
  engine.close(a);
  const int c = engine.open();
  const Feed both[] = {all_of(b, other), all_of(c, text)};
  EXPECT_THROW(engine.forward(both), Error);
  EXPECT_EQ(engine.kv_pages(), 0);
  EXPECT_EQ(engine.forward({both, 1}), expected_other);
  EXPECT_THROW(Engine(model, {.kv_memory = kv_memory(model, 1) - 1}), Error);
}

// Each goes on as if it had taken in all of its tokens itself.
TEST(Engine, ForksGoOnIndependently) {
  const Checkpoint model = recursive("llama", 3);
  for (const EngineOptions& options :
       {EngineOptions{}, EngineOptions{.compute = Compute::bf16, .kv = Compute::int8},
        EngineOptions{.single_slot = true}}) {
    Engine engine(model, options);
    for (const std::size_t shared : {1, 63, 64, 65, 100}) {
      const auto beginning = some_tokens(model, shared);
      const int first = engine.open();
      const Feed feed = all_of(first, beginning);
      engine.forward({&feed, 1});
      const std::int64_t pages = engine.kv_pages();
      std::vector<int> sequences = {engine.fork(first), first, engine.fork(first)};
      EXPECT_EQ(engine.kv_pages(), pages);
      engine.truncate(sequences.back(), static_cast<std::int64_t>(shared / 2));
      for (std::size_t i = 0; i < sequences.size(); ++i) {
        const auto length = static_cast<std::size_t>(engine.length(sequences[i]));
        const auto own = some_tokens(model, 20, i + 1);
        const Feed rest = all_of(sequences[i], own);
        const auto got = engine.forward({&rest, 1});
        const int alone = engine.open();
        const Feed both[] = {all_of(alone, std::span(beginning).first(length)), all_of(alone, own)};
        engine.forward({both, 1});
        EXPECT_EQ(got, engine.forward({both + 1, 1})) << shared << ", " << i;
        engine.close(alone);
      }
      for (const int sequence : sequences) engine.close(sequence);
      EXPECT_EQ(engine.kv_pages(), 0);
    }
  }
}

// What tokens that left owe is made by each for itself.
TEST(Engine, ForksMakeWhatTokensThatLeftOwe) {
  const Checkpoint model = recursive("llama", 3);
  Engine engine(model);
  const auto text = some_tokens(model, 70);
  const auto alone = hidden_alone(engine, text);
  const Exits exits = {true, false, false, false, false, false};
  for (const ExitedKv policy : {ExitedKv::exact, ExitedKv::copy, ExitedKv::skip}) {
    const int first = engine.open();
    const Feed feed = {first, std::span(text).first(60)};
    engine.forward({&feed, 1});
    for (std::size_t i = 60; i < 66; ++i) {
      const auto ticket =
          engine.submit({.sequence = first, .tokens = std::span(text).subspan(i, 1), .exits = &exits});
      while (engine.step()) {
      }
      engine.leave(ticket, policy);
      engine.take(ticket);
    }
    std::vector<std::vector<float>> results;
    for (const int sequence : {engine.fork(first), engine.fork(first), first}) {
      const Feed rest = all_of(sequence, std::span(text).subspan(66));
      results.push_back(engine.forward({&rest, 1}));
      engine.close(sequence);
    }
    EXPECT_EQ(results[0], results[1]);
    EXPECT_EQ(results[0], results[2]);
    if (policy == ExitedKv::exact) {
      EXPECT_EQ(largest_difference(results[0], std::span(alone).last(results[0].size())), 0);
    }
    EXPECT_EQ(engine.kv_pages(), 0);
  }
}

// A prompt sees at each visit what its tokens have there, however many visits write to one slot; what comes
// after it sees their last.
TEST(Engine, VisitsThatShareASlotTakeThePromptLoopByLoop) {
  Checkpoint model = recursive("llama", 3);
  model.config.max_positions = 2000;
  Engine engine(model), single(model, {.single_slot = true});
  const auto tokens = some_tokens(model, 1300), others = some_tokens(model, 40, 1);
  EXPECT_EQ(single.token_kv_bytes() * 3, engine.token_kv_bytes());
  const auto expected = hidden_alone(engine, tokens);
  EXPECT_EQ(hidden_alone(single, tokens), expected);
  const int a = single.open(), b = single.open();
  const auto beside = single.submit(all_of(b, others));
  single.step();
  const auto ticket = single.submit(all_of(a, tokens));
  EXPECT_THROW(single.submit({a, std::span(others).first(1)}), Error);
  while (single.step()) {
  }
  EXPECT_EQ(single.take(ticket), expected);
  EXPECT_EQ(single.take(beside), hidden_alone(single, others));
  EXPECT_EQ(single.kv_pages(), 2 * (21 + 1));
  const int c = engine.open();
  const Feed same[] = {all_of(c, tokens), {c, std::span(others).first(1)}};
  engine.forward({same, 1});
  const Feed next = {a, std::span(others).first(1)};
  EXPECT_NE(single.forward({&next, 1}), engine.forward({same + 1, 1}));
}

TEST(Engine, WrongCallsAreRefusedBeforeAnythingChanges) {
  const Checkpoint model = load("llama");
  Engine engine(model, {.max_context = 20});
  const int sequence = engine.open();
  const std::vector<Token> good = some_tokens(model, 10), long_text = some_tokens(model, 21);
  const std::vector<Token> bad = {1, static_cast<Token>(model.config.vocab_size)}, negative = {-1};
  for (const auto& tokens : {long_text, bad, negative}) {
    const Feed feed = all_of(sequence, tokens);
    EXPECT_THROW(engine.forward({&feed, 1}), Error);
  }
  const Feed twice[] = {all_of(sequence, good), all_of(sequence, good)};
  EXPECT_THROW(engine.forward(twice), Error);
  const Feed keeps_more = {.sequence = sequence, .tokens = good, .keep = 11};
  EXPECT_THROW(engine.forward({&keeps_more, 1}), Error);
  const Feed closed = all_of(sequence + 1, good);
  EXPECT_THROW(engine.forward({&closed, 1}), Error);
  EXPECT_THROW(engine.truncate(sequence, 1), Error);
  EXPECT_EQ(engine.length(sequence), 0);
  EXPECT_THROW(Engine(model, {.max_context = model.config.max_positions + 1}), Error);
  const Feed right = all_of(sequence, good);
  EXPECT_EQ(engine.forward({&right, 1}).size(), 10U * static_cast<std::size_t>(model.config.hidden_size));
}

TEST(Engine, AnObserverThatThrowsLeavesAWorkingEngine) {
  const Checkpoint model = load("llama");
  Engine engine(model);
  const auto tokens = some_tokens(model, 10);
  const auto expected = hidden_alone(engine, tokens);
  class Stop : public Observer {
   public:
    void observe(Tap, std::int64_t visit, std::int64_t, std::span<const float>) override {
      if (visit == 1) throw Interrupted();
    }
  } stop;
  const int sequence = engine.open();
  const Feed feed = all_of(sequence, tokens);
  EXPECT_THROW(engine.forward({&feed, 1}, &stop), Interrupted);
  engine.truncate(sequence, 0);
  EXPECT_EQ(engine.forward({&feed, 1}), expected);
}

TEST(Engine, TheComputeTypeFollowsTheWeights) {
  EXPECT_EQ(own_compute(load("llama")), Compute::f32);
  EXPECT_EQ(own_compute(load("llama-bf16")), make_cpu_backend()->fast_bf16() ? Compute::bf16 : Compute::f32);
}

TEST(Engine, AQuantisedFileIsRunAsItIsAndMeasuredInFloats) {
  const Checkpoint model = load("qwen3-gguf");
  EXPECT_EQ(own_compute(model), Compute::native);
  EXPECT_EQ(Engine(model, {.compute = Compute::native}).layer_type(), Compute::int8_groups);
  EXPECT_EQ(float_compute(model), make_cpu_backend()->fast_bf16() ? Compute::bf16 : Compute::f32);
}

}  // namespace
}  // namespace fathom
