// The engine against Hugging Face transformers, on every tiny model of tests/data/models.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "logits.h"
#include "oracle.h"
#include "runtime/engine.h"

namespace fathom {
namespace {

constexpr float tolerance = 1e-4F;  // float32 sums of another order; logits and states are of size 1 to 10

// Feeds `tokens` in parts of `part` tokens and returns the logits of all.
std::vector<float> logits_in_parts(Engine& engine, int sequence, std::span<const Token> tokens,
                                   std::size_t part) {
  std::vector<float> hidden;
  for (std::size_t i = 0; i < tokens.size(); i += part) {
    const auto some = tokens.subspan(i, std::min(part, tokens.size() - i));
    const Feed feed = {.sequence = sequence, .tokens = some, .keep = static_cast<std::int64_t>(some.size())};
    const auto states = engine.forward({&feed, 1});
    hidden.insert(hidden.end(), states.begin(), states.end());
  }
  return logits_of(engine, hidden);
}

// The residual stream before each visit and after the last.
class Stream : public Observer {
 public:
  void observe(Tap tap, std::int64_t visit, std::int64_t, std::span<const float> values) override {
    if (tap == Tap::visit_input) states[visit].assign(values.begin(), values.end());
    if (tap == Tap::visit_output) states[visit + 1].assign(values.begin(), values.end());
  }
  std::map<std::int64_t, std::vector<float>> states;
};

class Parity : public testing::TestWithParam<std::string> {
 protected:
  Oracle oracle_ = load_oracle(GetParam());
  Engine engine_{load_checkpoint(oracle_.model)};
};

INSTANTIATE_TEST_SUITE_P(Models, Parity, testing::ValuesIn(oracle_names()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(Parity, Prefill) {
  EXPECT_LT(largest_difference(logits_in_parts(engine_, engine_.open(), oracle_.ids, oracle_.ids.size()),
                               oracle_.logits),
            tolerance);
}

TEST_P(Parity, TokenByToken) {
  EXPECT_LT(largest_difference(logits_in_parts(engine_, engine_.open(), oracle_.ids, 1), oracle_.logits),
            tolerance);
}

TEST_P(Parity, InPartsAndAgainAfterTruncation) {
  const int sequence = engine_.open();
  EXPECT_LT(largest_difference(logits_in_parts(engine_, sequence, oracle_.ids, 5), oracle_.logits),
            tolerance);
  const std::size_t kept = 9;
  engine_.truncate(sequence, static_cast<std::int64_t>(kept));
  const auto again = logits_in_parts(engine_, sequence, std::span(oracle_.ids).subspan(kept), 3);
  const auto vocab = static_cast<std::size_t>(engine_.config().vocab_size);
  EXPECT_LT(largest_difference(again, std::span(oracle_.logits).subspan(kept * vocab)), tolerance);
}

TEST_P(Parity, HiddenStatesOfEachLayer) {
  Stream stream;
  const Feed feed = {.sequence = engine_.open(),
                     .tokens = oracle_.ids,
                     .keep = static_cast<std::int64_t>(oracle_.ids.size())};
  const auto last = engine_.forward({&feed, 1}, &stream);
  ASSERT_EQ(stream.states.size(), oracle_.hidden.size());
  for (std::size_t i = 0; i < oracle_.hidden.size(); ++i)
    EXPECT_LT(largest_difference(stream.states[static_cast<std::int64_t>(i)], oracle_.hidden[i]), tolerance)
        << "layer " << i;
  EXPECT_LT(largest_difference(last, oracle_.hidden.back()), tolerance);
}

// Three sequences at once, each of which has another part of the tokens.
TEST_P(Parity, InABatch) {
  const std::size_t count = oracle_.ids.size(), lengths[] = {count / 3, count, count / 2};
  std::vector<Feed> feeds;
  for (const std::size_t length : lengths)
    feeds.push_back({.sequence = engine_.open(),
                     .tokens = std::span(oracle_.ids).first(length),
                     .keep = static_cast<std::int64_t>(length)});
  const std::vector<float> logits = logits_of(engine_, engine_.forward(feeds));
  std::size_t begin = 0;
  for (const std::size_t length : lengths) {
    const auto own = length * static_cast<std::size_t>(engine_.config().vocab_size);
    EXPECT_LT(largest_difference(std::span(logits).subspan(begin, own), std::span(oracle_.logits).first(own)),
              tolerance)
        << length << " tokens";
    begin += own;
  }
}

// Rounded weights and activations: how far all logits are, as a root of their mean square, from transformers'
// in float32. Weights of 8 bits are off by 1/254 of a row's largest, and random rows' largest are three times
// their mean; 4 bits by sixteen times that. (native: the weights as they are, but the inputs of quantised
// ones in 8 bits.)
TEST_P(Parity, RoundedTypesAreAsNearAsTheirBits) {
  const std::map<Compute, double> tolerances = {{Compute::bf16, 0.03},        {Compute::native, 0.07},
                                                {Compute::int8, 0.07},        {Compute::int8_groups, 0.07},
                                                {Compute::int6_groups, 0.15}, {Compute::int4, 0.6},
                                                {Compute::int4_groups, 0.6}};
  for (const auto& [compute, most] : tolerances) {
    Engine engine(load_checkpoint(oracle_.model), {.compute = compute});
    const auto logits = logits_in_parts(engine, engine.open(), oracle_.ids, oracle_.ids.size());
    ASSERT_EQ(logits.size(), oracle_.logits.size());
    double error = 0, norm = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      error += std::pow(double{logits[i]} - oracle_.logits[i], 2);
      norm += std::pow(double{oracle_.logits[i]}, 2);
    }
    EXPECT_LT(std::sqrt(error / norm), most) << compute_name(compute);
  }
}

}  // namespace
}  // namespace fathom
