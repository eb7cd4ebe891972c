// What a run does besides its steps: held-out text, bad steps, documents kept apart, an estimate.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"
#include "base/file.h"
#include "base/random.h"
#include "scratch.h"
#include "train/small_run.h"
#include "train/train.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

/// Documents of random tokens, each of a length of its own.
std::vector<std::vector<Token>> random_documents(int count, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::vector<Token>> documents(static_cast<std::size_t>(count));
  for (auto& document : documents) {
    const auto length = 3 + random.below(20);
    for (std::uint64_t i = 0; i < length; ++i) document.push_back(static_cast<Token>(2 + random.below(58)));
  }
  return documents;
}

TokenStore text(std::uint64_t seed = 11) { return store_documents(random_documents(30, seed), 1, "text"); }

TrainOptions small_in_floats(std::int64_t steps) {
  TrainOptions options = small(steps);
  options.bf16 = false;
  return options;
}

std::vector<Json> lines(const fs::path& file) {
  std::vector<Json> result;
  std::istringstream content(read_file(file));
  for (std::string line; std::getline(content, line);) result.push_back(parse_json(line, file.string()));
  return result;
}

TEST(Run, DocumentsKeptApartAreAsIfEachWereAlone) {
  const test::Scratch scratch;
  const Checkpoint model = tiny();
  const std::vector<std::vector<Token>> documents = {{5, 6, 7, 8, 9}, {10, 11, 12}, {20, 21, 22, 23}};
  // Each after the separator (1) before it. The stream begins without one: there the first document has none,
  // and its first token is predicted at the end.
  double loss = 0;
  for (const std::vector<Token>& alone :
       {std::vector<Token>{5, 6, 7, 8, 9, 1}, {1, 10, 11, 12, 1}, {1, 20, 21, 22, 23, 1}, {1, 5}}) {
    TensorMap gradients;
    loss += train_gradients(model, alone, gradients) * static_cast<double>(alone.size() - 1);
  }
  TrainOptions options = small_in_floats(1);
  options.tokens = options.tokens_per_step = options.context = 15;  // all of the text
  options.within_documents = true;
  const TrainInputs inputs{.student = model, .text = {{.store = store_documents(documents, 1, "text")}}};
  const TrainResult apart = train(inputs, options, scratch / "apart", false);
  EXPECT_NEAR(apart.steps[0].loss, loss / 15, 1e-5);

  options.within_documents = false;
  const TrainResult mixed = train(inputs, options, scratch / "mixed", false);
  EXPECT_GT(std::abs(mixed.steps[0].loss - apart.steps[0].loss), 1e-3);
}

TEST(Run, TheTeacherReadsTheSameDocuments) {
  const test::Scratch scratch;
  const Checkpoint model = tiny();
  TrainOptions options = small_in_floats(1);
  options.loss.cross_entropy = 0;
  options.loss.divergence = 1;
  for (const bool within : {false, true}) {
    options.within_documents = within;
    const TrainInputs inputs{.student = model, .teacher = &model, .text = {{.store = text()}}};
    EXPECT_LT(train(inputs, options, scratch.path(), false).steps[0].kl, 1e-6) << within;
  }
}

TEST(Run, OnlyWhatIsLearnedCounts) {
  const test::Scratch scratch;
  const Checkpoint model = tiny();
  TrainOptions options = small_in_floats(1);
  options.tokens = options.tokens_per_step = options.context = 8;
  options.loss.divergence = 1e-9;  // the teacher's rows must match too
  const TokenStore store = store_documents({{~5, ~6, 7, 8, ~9, ~10, 11}}, ~1, "text");
  const TrainResult result = train({.student = model, .teacher = &model, .text = {{.store = store}}}, options,
                                   scratch.path(), false);
  const std::vector<float> logits = train_logits(model, {5, 6, 7, 8, 9, 10, 11, 1});
  const auto vocab = static_cast<std::size_t>(model.config.vocab_size);
  const auto loss_of = [&](std::size_t row, Token target) {
    double sum = 0;
    for (std::size_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[row * vocab + i]));
    return std::log(sum) - logits[row * vocab + static_cast<std::size_t>(target)];
  };
  EXPECT_NEAR(result.steps[0].ce, (loss_of(1, 7) + loss_of(2, 8) + loss_of(5, 11)) / 3, 1e-5);
  EXPECT_LT(result.steps[0].kl, 1e-6);
}

/// Prompts of 100 tokens with answers of three.
TokenStore long_prompts() {
  std::vector<std::vector<Token>> documents;
  for (Token i = 0; i < 6; ++i) {
    documents.emplace_back(100, ~(5 + i));
    documents.back().insert(documents.back().end(), {20 + i, 30 + i, 40 + i});
  }
  return store_documents(documents, ~1, "chats");
}

TEST(Run, EveryStepLearnsWhereMostOfTheTextIsPrompts) {
  const test::Scratch scratch;
  const Checkpoint model = tiny();
  TrainOptions options = small_in_floats(20);
  options.tokens_per_step = options.context = 16;
  options.tokens = 20 * 16;
  TrainInputs inputs{.student = model, .text = {{.store = long_prompts()}}, .held_out = long_prompts()};
  const TrainResult result = train(inputs, options, scratch / "whole", false);
  ASSERT_EQ(result.steps.size(), 20U);
  for (const TrainStep& step : result.steps) EXPECT_GT(step.loss, 0.01) << step.step;
  EXPECT_GT(lines(scratch / "whole" / "evaluations.jsonl").back()["loss"].get<double>(), 0.01);
  EXPECT_GT(estimate_training(inputs, options).step_seconds, 0);

  inputs.held_out = store_documents({{~5, ~6, ~7}}, ~1, "only prompts");
  try {
    train(inputs, options, scratch / "none", false);
    FAIL() << "measured a text of prompts";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("only prompts: none of its 4 tokens is learned"));
  }
}

TEST(Run, HeldOutTextIsMeasuredAndTheBestModelKept) {
  const test::Scratch scratch;
  const Checkpoint model = tiny();
  TrainOptions options = small_in_floats(30);
  options.evaluate_every = 4;
  options.optimiser.learning_rate =
      2e-2;  // learns 30 random documents by heart, which other ones suffer from
  TrainInputs inputs{.student = model, .text = {{.store = text()}}, .held_out = text(99)};
  inputs.sample = [](const Checkpoint& now) { return Json(now.plan.depth()); };
  train(inputs, options, scratch.path(), false);
  const std::vector<Json> evaluations = lines(scratch / "evaluations.jsonl");
  ASSERT_EQ(evaluations.size(), 8U);  // at 4, 8, ..., 28 and the end
  EXPECT_EQ(evaluations.back()["step"], 30);
  EXPECT_EQ(evaluations.back()["samples"], model.plan.depth());
  double best = std::numeric_limits<double>::infinity();
  for (const Json& line : evaluations) best = std::min(best, line["loss"].get<double>());
  EXPECT_GT(evaluations.back()["loss"].get<double>(), best);

  // The model that was kept is the one that was measured.
  TrainOptions look = small_in_floats(1);
  look.evaluate_every = 1;
  look.optimiser.learning_rate = 0;
  const Checkpoint kept = load_checkpoint(scratch / "best");
  train({.student = kept, .text = {{.store = text()}}, .held_out = text(99)}, look, scratch / "look", false);
  EXPECT_NEAR(lines(scratch / "look" / "evaluations.jsonl")[0]["loss"].get<double>(), best, 0.02);
}

/// A model with a NaN for token 3 only: a step without it is sound.
Checkpoint with_a_hole() {
  Checkpoint model = tiny();
  Tensor& embedding = model.tensors.at("model.embed_tokens.weight");
  std::vector<float> values = decode(embedding);
  values[static_cast<std::size_t>(3 * model.config.hidden_size)] = std::numeric_limits<float>::quiet_NaN();
  embedding = make_tensor(DType::f32, embedding.shape, values);
  return model;
}

TEST(Run, ABadStepIsSkippedOrStopsAndItsTextIsNamed) {
  const test::Scratch scratch;
  auto documents = random_documents(30, 11);
  for (auto& document : documents) std::ranges::replace(document, 3, 4);
  documents[17] = {3, 3, 3};
  const TrainInputs inputs{.student = with_a_hole(),
                           .text = {{.store = store_documents(documents, 1, "text")}}};
  TrainOptions options = small_in_floats(6);  // less than an epoch
  options.trainable = Trainable::lora;
  options.lora.rank = 2;
  try {
    train(inputs, options, scratch.path(), false);
    FAIL() << "went through NaN";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the loss is nan"));
    EXPECT_THAT(error.what(), testing::ContainsRegex("text line 1[5678]"));
  }
  options.guard.on_nan = BadStep::skip;
  const TrainResult resumed = train(inputs, options, scratch.path(), true);
  const test::Scratch other;
  const TrainResult whole = train(inputs, options, other.path(), false);
  ASSERT_EQ(resumed.steps.size(), whole.steps.size());
  int skipped = 0;
  for (std::size_t i = 0; i < whole.steps.size(); ++i) {
    skipped += whole.steps[i].skipped ? 1 : 0;
    EXPECT_EQ(resumed.steps[i].skipped, whole.steps[i].skipped);
    if (!whole.steps[i].skipped) {
      EXPECT_EQ(resumed.steps[i].loss, whole.steps[i].loss);
    }
  }
  EXPECT_GE(skipped, 1);
  EXPECT_LE(skipped, 2);
  EXPECT_EQ(lines(scratch / "metrics.jsonl").size(), whole.steps.size());
}

TEST(Run, AnEstimateCountsAndMeasures) {
  const Checkpoint model = tiny();
  TrainOptions options = small_in_floats(10);
  options.bf16 = true;
  const TrainEstimate found = estimate_training({.student = model, .text = {{.store = text()}}}, options);
  std::int64_t values = 0;
  for (const auto& [name, tensor] : model.tensors) values += tensor.elements();
  EXPECT_EQ(found.parameters, values);
  EXPECT_EQ(found.trained, values);
  EXPECT_EQ(found.steps, 10);
  EXPECT_EQ(found.optimiser_bytes, 12 * values);
  EXPECT_EQ(found.checkpoint_bytes, 12 * values);
  // float32 values, and matrices in bfloat16 for the way ahead and for the way back.
  EXPECT_NEAR(static_cast<double>(found.weight_bytes), 8.0 * static_cast<double>(values), 0.02 * 8 * values);
  EXPECT_GT(found.peak_bytes, found.weight_bytes);
  EXPECT_GT(found.step_seconds, 0);
}

}  // namespace
}  // namespace fathom
