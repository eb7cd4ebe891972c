// Translators, gates and shortlists fitted to a model as it is.
#include "depth/exit_fit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/random.h"
#include "depth/logistic_regression.h"
#include "depth/tiny.h"

namespace fathom {
namespace {

ExitFitOptions at(std::vector<std::int64_t> depths) {
  ExitFitOptions options;
  options.depths = std::move(depths);
  options.context = 32;
  return options;
}

/// A model whose layers from `first` on add nothing.
Checkpoint idle_from(std::int64_t first, std::int64_t depth) {
  Checkpoint model = deep_model("llama", depth);
  for (const auto& [name, tensor] : std::map(model.tensors))
    for (std::int64_t layer = first; layer < depth; ++layer)
      if (name == layer_name(layer, "self_attn.o_proj.weight") ||
          name == layer_name(layer, "mlp.down_proj.weight"))
        model.tensors[name] = make_tensor(DType::f32, tensor.shape,
                                          std::vector<float>(static_cast<std::size_t>(tensor.elements())));
  return model;
}

TEST(ExitFit, WhereTheRestAddsNothingTheTranslatorAddsNothing) {
  const Checkpoint model = idle_from(2, 4);
  const auto ids = random_text(model, 512);
  ExitFitReport report;
  const Checkpoint fitted = fit_exits(model, ids, at({2}), report);
  for (const float w : decode(*fitted.exit_tensor(1, "translator.weight"))) EXPECT_NEAR(w, 0, 1e-5);
  ASSERT_EQ(report.exits.size(), 1U);
  EXPECT_EQ(report.exits[0].after.agreement, 1);
  EXPECT_NEAR(report.exits[0].after.perplexity.nll, report.full.nll, 1e-5);
  EXPECT_EQ(report.tokens + report.held_out, 512);
}

TEST(ExitFit, ImprovesEveryExitAndLeavesFullDepthAlone) {
  const Checkpoint model = deep_model("llama", 6);
  const auto ids = random_text(model, 12'000);
  ExitFitOptions options = at({2, 4, 5});
  options.gate = true;
  options.shortlist = model.config.vocab_size / 2;
  ExitFitReport report;
  const Checkpoint fitted = fit_exits(model, ids, options, report);
  EXPECT_EQ(logits_of(fitted, std::span(ids).first(40)), logits_of(model, std::span(ids).first(40)));
  EXPECT_EQ(std::ssize(fitted.shortlist()), options.shortlist);
  for (const ExitFit& fit : report.exits) {
    EXPECT_TRUE(fitted.plan.visits[static_cast<std::size_t>(fit.depth - 1)].exit);
    EXPECT_GT(fit.after.agreement, fit.before.agreement) << fit.depth;
    EXPECT_LE(fit.shortlist, fit.after.agreement + 0.05) << fit.depth;
    EXPECT_NE(fitted.exit_tensor(fit.depth - 1, "gate.weight"), nullptr);
    EXPECT_GT(fit.gate, 0.4) << fit.depth;
  }
  EXPECT_EQ(fitted.provenance.back()["command"], "exits");

  // A pair of almost full rank is almost the matrix.
  options.gate = false;
  options.rank = model.config.hidden_size - 1;
  ExitFitReport low;
  const Checkpoint pairs = fit_exits(model, ids, options, low);
  EXPECT_EQ(pairs.exit_tensor(1, "translator.weight"), nullptr);
  EXPECT_EQ(pairs.exit_tensor(1, "translator.lora_A.weight")->rows(), options.rank);
  for (std::size_t e = 0; e < 3; ++e)
    EXPECT_NEAR(low.exits[e].after.perplexity.nll, report.exits[e].after.perplexity.nll, 0.05);
}

TEST(ExitFit, RefusesWhatTheModelHasNot) {
  const Checkpoint model = deep_model("llama", 3);
  const auto ids = random_text(model, 200);
  ExitFitReport report;
  for (const std::vector<std::int64_t>& depths :
       std::vector<std::vector<std::int64_t>>{{}, {0}, {3}, {2, 1}, {1, 1}})
    EXPECT_THROW(fit_exits(model, ids, at(depths), report), UsageError);
  ExitFitOptions options = at({1});
  options.shortlist = model.config.vocab_size;
  EXPECT_THROW(fit_exits(model, ids, options, report), UsageError);
  EXPECT_THROW(fit_exits(model, std::span(ids).first(60), at({1}), report), Error);  // not two windows
}

TEST(LogisticRegression, FindsTheMapThatMadeTheLabels) {
  Random random(4);
  const std::vector<double> truth = {2, -1, 0, 0.5};
  Matrix rows = gaussian(20'000, 4, random);
  std::vector<bool> labels;
  for (std::int64_t r = 0; r < rows.rows; ++r) {
    double z = 0.7;
    for (std::size_t i = 0; i < truth.size(); ++i) z += truth[i] * double{rows.row(r)[i]};
    labels.push_back(random.uniform() < 1 / (1 + std::exp(-z)));
  }
  const LinearClassifier map = logistic_regression(rows, labels, 0, {});
  for (std::size_t i = 0; i < truth.size(); ++i) EXPECT_NEAR(map.weight[i], truth[i], 0.1);
  EXPECT_NEAR(map.bias, 0.7, 0.1);
  // A strong ridge leaves the share of the class.
  const LinearClassifier flat = logistic_regression(rows, labels, 1e4, {});
  EXPECT_NEAR(flat.probability(std::span<const float>(rows.row(0), 4)),
              static_cast<double>(std::ranges::count(labels, true)) / 20'000, 0.01);
  // One class alone.
  const LinearClassifier sure = logistic_regression(rows, std::vector<bool>(20'000, true), 0.1, {});
  EXPECT_GT(sure.probability(std::span<const float>(rows.row(0), 4)), 0.99);
}

TEST(AreaUnderCurve, CountsPairsInOrder) {
  EXPECT_EQ(area_under_curve(std::vector<double>{0.1, 0.2, 0.3, 0.4}, {false, false, true, true}), 1);
  EXPECT_EQ(area_under_curve(std::vector<double>{0.1, 0.2, 0.3, 0.4}, {true, false, true, false}), 0.25);
  EXPECT_EQ(area_under_curve(std::vector<double>{0.5, 0.5}, {true, false}), 0.5);
  EXPECT_EQ(area_under_curve(std::vector<double>{0.5, 0.6}, {true, true}), 0.5);
}

}  // namespace
}  // namespace fathom
