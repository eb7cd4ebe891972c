#include "eval/divergence.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "base/threads.h"
#include "logits.h"
#include "model/checkpoint.h"
#include "oracle.h"

namespace fathom {
namespace {

/// On one thread: to start a parallel loop over a tiny model takes longer than to run it.
Engine tiny_engine(const Oracle& oracle, Compute compute) {
  set_threads(1);
  set_quiet(true);
  return Engine(load_checkpoint(oracle.model), {.compute = compute});
}

/// Probabilities [window - 1, vocab] of the tokens after each but the last, and the most probable of each
/// row.
struct Predictions {
  std::vector<double> probabilities;
  std::vector<std::int64_t> top;
};

Predictions predict(Engine& engine, std::span<const Token> window) {
  const std::int64_t vocab = engine.config().vocab_size;
  const std::vector<float> logits = logits_of(engine, window.first(window.size() - 1));
  Predictions predictions;
  for (auto row = logits.begin(); row != logits.end(); row += vocab) {
    double sum = 0;
    for (auto logit = row; logit != row + vocab; ++logit) sum += std::exp(double{*logit});
    for (auto logit = row; logit != row + vocab; ++logit)
      predictions.probabilities.push_back(std::exp(double{*logit}) / sum);
    predictions.top.push_back(std::max_element(row, row + vocab) - row);
  }
  return predictions;
}

class DivergenceOf : public testing::TestWithParam<std::string> {
 protected:
  DivergenceOf() : oracle_(load_oracle(GetParam())) {}
  Engine engine(Compute compute) const { return tiny_engine(oracle_, compute); }
  std::int64_t length() const { return static_cast<std::int64_t>(oracle_.ids.size()); }

  Oracle oracle_;
};

TEST_P(DivergenceOf, ATypeFromItselfIsExactlyZero) {
  for (const Compute compute : {Compute::f32, Compute::bf16, Compute::int8, Compute::int4}) {
    Engine one = engine(compute), other = engine(compute);
    const MeasuredDivergence result = divergence(one, other, oracle_.ids, length(), -1);
    EXPECT_EQ(result.kl, 0);
    EXPECT_EQ(result.same_top, 1);
    EXPECT_EQ(result.tokens, length() - 1);
  }
}

TEST_P(DivergenceOf, IsTheDefinitionOverIndependentWindows) {
  Engine model = engine(Compute::int4), reference = engine(Compute::f32);
  const std::int64_t context = length() / 3;
  double kl = 0, same_top = 0, tokens = 0;
  for (std::int64_t w = 0; w < 3; ++w) {
    const auto window =
        std::span(oracle_.ids)
            .subspan(static_cast<std::size_t>(w * context), static_cast<std::size_t>(context));
    const Predictions p = predict(reference, window), q = predict(model, window);
    for (std::size_t i = 0; i < p.probabilities.size(); ++i)
      kl += p.probabilities[i] * std::log(p.probabilities[i] / q.probabilities[i]);
    for (std::size_t i = 0; i < p.top.size(); ++i) same_top += p.top[i] == q.top[i];
    tokens += static_cast<double>(p.top.size());
  }
  const MeasuredDivergence result = divergence(model, reference, oracle_.ids, context, -1, 3);
  EXPECT_EQ(result.tokens, tokens);
  EXPECT_NEAR(result.kl, kl / tokens, 1e-6);
  // Far enough from the other direction to tell which of the two is the reference.
  const double reversed = divergence(reference, model, oracle_.ids, context, -1, 3).kl;
  EXPECT_GT(std::abs(result.kl - reversed), 3e-6);
  EXPECT_EQ(result.same_top, same_top / tokens);
}

TEST_P(DivergenceOf, GrowsAsBitsGetFewer) {
  Engine reference = engine(Compute::f32);
  std::vector<double> kl;
  for (const Compute compute : {Compute::bf16, Compute::int8, Compute::int4}) {
    Engine model = engine(compute);
    kl.push_back(divergence(model, reference, oracle_.ids, length(), -1).kl);
  }
  EXPECT_GT(kl[0], 0);
  EXPECT_LT(kl[0], 1e-3);
  EXPECT_GT(kl[1], kl[0]);
  EXPECT_GT(kl[2], kl[1]);
}

INSTANTIATE_TEST_SUITE_P(Models, DivergenceOf, testing::Values("llama", "gemma2", "qwen3-gguf"));

TEST(Divergence, SaysWhatIsWrong) {
  const Oracle oracle = load_oracle("llama");
  Engine engine = tiny_engine(oracle, Compute::int8), reference = tiny_engine(oracle, Compute::bf16);
  EXPECT_THROW(divergence(engine, reference, oracle.ids, 29, -1), Error);        // shorter than one window
  EXPECT_THROW(divergence(engine, reference, oracle.ids, 1, -1), UsageError);    // nothing to predict
  EXPECT_THROW(divergence(engine, reference, oracle.ids, 257, -1), UsageError);  // the model's context is 256
}

}  // namespace
}  // namespace fathom
