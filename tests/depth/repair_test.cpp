#include "depth/repair.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "depth/layerwise.h"
#include "depth/prune.h"
#include "depth/regression.h"
#include "depth/tiny.h"

namespace fathom {
namespace {

constexpr std::int64_t context = 16;

RepairOptions small_windows() { return {.context = context, .max_tokens = 4096, .bos = -1}; }

/// Mean squared difference of two models' logits over windows of a text.
double distance(const Checkpoint& a, const Checkpoint& b, std::span<const Token> ids) {
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t first = 0; first + context <= ids.size(); first += context) {
    const std::vector<float> x = logits_of(a, ids.subspan(first, context));
    const std::vector<float> y = logits_of(b, ids.subspan(first, context));
    for (std::size_t i = 0; i < x.size(); ++i) sum += std::pow(x[i] - y[i], 2);
    count += x.size();
  }
  return sum / static_cast<double>(count);
}

std::vector<float> normal(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

TEST(Regression, FindsTheMapWhateverTheWeights) {
  const std::int64_t rows = 200, in = 7, out = 3;
  const Matrix map = [&] {
    Random random(3);
    return gaussian(out, in, random);
  }();
  const std::vector<float> x = normal(rows * in, 1);
  std::vector<float> y(rows * out), weights(rows);
  for (std::int64_t i = 0; i < rows; ++i) {
    weights[static_cast<std::size_t>(i)] = 0.1F + static_cast<float>(i % 5);
    for (std::int64_t o = 0; o < out; ++o)
      for (std::int64_t j = 0; j < in; ++j)
        y[static_cast<std::size_t>(i * out + o)] += map.row(o)[j] * x[static_cast<std::size_t>(i * in + j)];
  }
  Regression regression(in, out);
  regression.add(x, y, weights, /*held_out=*/false);
  constexpr double ridges[] = {1e-9};
  const Matrix found = regression.fit(ridges).weight;
  for (std::size_t i = 0; i < found.values.size(); ++i) EXPECT_NEAR(found.values[i], map.values[i], 1e-4F);
}

/// A row of weight nine counts as nine rows.
TEST(Regression, AWeightIsThatManyRows) {
  const std::vector<float> x = normal(40, 1), y = normal(20, 2);
  Regression weighted(2, 1), repeated(2, 1);
  std::vector<float> weights(20, 1);
  weights[3] = 9;
  weighted.add(x, y, weights, false);
  const std::vector<float> ones(1, 1);
  for (std::size_t i = 0; i < 20; ++i)
    for (int times = 0; times < (i == 3 ? 9 : 1); ++times)
      repeated.add(std::span(x).subspan(2 * i, 2), std::span(y).subspan(i, 1), ones, false);
  constexpr double ridges[] = {1e-2};
  const Matrix a = weighted.fit(ridges).weight, b = repeated.fit(ridges).weight;
  for (std::size_t i = 0; i < 2; ++i) EXPECT_NEAR(a.values[i], b.values[i], 1e-5F);
}

/// Noise that has nothing to do with the inputs wants a strong ridge, what follows from them a weak one.
TEST(Regression, HeldOutRowsChooseTheRidge) {
  const std::int64_t rows = 60, in = 40;
  const std::vector<float> x = normal(2 * rows * in, 1), noise = normal(2 * rows, 2);
  const std::vector<float> weights(rows, 1);
  constexpr double ridges[] = {1e-4, 1e2};
  Regression of_noise(in, 1), of_sums(in, 1);
  std::vector<float> sums(2 * rows);
  for (std::size_t i = 0; i < sums.size(); ++i)
    for (std::int64_t j = 0; j < in; ++j) sums[i] += x[i * in + static_cast<std::size_t>(j)];
  for (const bool held_out : {false, true}) {
    const std::size_t first = held_out ? rows : 0;
    const auto inputs = std::span(x).subspan(first * in, rows * in);
    of_noise.add(inputs, std::span(noise).subspan(first, rows), weights, held_out);
    of_sums.add(inputs, std::span(sums).subspan(first, rows), weights, held_out);
  }
  EXPECT_EQ(of_noise.fit(ridges).ridge, 1e2);
  const Regression::Fit fit = of_sums.fit(ridges);
  EXPECT_EQ(fit.ridge, 1e-4);
  EXPECT_LT(fit.unexplained, 0.01);
}

TEST(Layerwise, StatesAreThoseOfTheWholeModel) {
  for (const char* name : {"llama", "gemma3", "qwen2"}) {
    const Checkpoint model = deep_model(name, 4);
    const std::vector<Token> ids = random_text(model, 3 * context + 5);
    LayerwiseStates states(model, ids, context, /*bos=*/1);
    EXPECT_EQ(states.rows(), 3 * (context + 1));
    for (std::int64_t visit = 0; visit < model.plan.depth(); ++visit) states.go_through(model, visit);
    Engine engine(model, {.compute = float_compute(model)});
    for (std::size_t window = 0; window < 3; ++window) {
      std::vector<Token> fed{1};
      const auto own = std::span(ids).subspan(window * context, context);
      fed.insert(fed.end(), own.begin(), own.end());
      const Feed feed{engine.open(), fed, context + 1};
      const std::vector<float> whole = engine.forward({&feed, 1});
      const auto part = states.values().subspan(window * whole.size(), whole.size());
      EXPECT_EQ(std::vector<float>(part.begin(), part.end()), whole) << name;
    }
  }
}

TEST(Repair, BringsThePrunedModelNearerToTheOriginal) {
  for (const char* name : {"llama", "qwen2"}) {
    const Checkpoint model = deep_model(name, 6);
    const std::vector<std::int64_t> dropped{2, 3};
    const Checkpoint pruned = prune(model, dropped);
    const std::vector<Token> text = random_text(model, 4096);
    const Checkpoint repaired = repair(model, pruned, visits_at_seams(6, dropped), text, small_windows());
    EXPECT_EQ(repaired.plan, pruned.plan);
    EXPECT_EQ(repaired.provenance.back()["command"], "repair");
    std::vector<Token> other = random_text(model, 8192);
    other.erase(other.begin(), other.begin() + 7680);
    EXPECT_LT(distance(repaired, model, other), 0.8 * distance(pruned, model, other)) << name;
  }
}

/// Where dropping changed nothing there is nothing to fit.
TEST(Repair, LeavesWhatIsRight) {
  Checkpoint model = deep_model("llama", 6);
  for (const char* name : {"self_attn.o_proj.weight", "mlp.down_proj.weight"}) {
    Tensor& tensor = model.tensors.at(layer_name(3, name));
    tensor = make_tensor(DType::f32, tensor.shape,
                         std::vector<float>(static_cast<std::size_t>(tensor.elements())));
  }
  const std::vector<std::int64_t> dropped{3};
  const Checkpoint pruned = prune(model, dropped);
  const std::vector<Token> text = random_text(model, 1024);
  const Checkpoint repaired = repair(model, pruned, visits_at_seams(6, dropped), text, small_windows());
  const std::vector<Token> ids = random_text(model, context);
  EXPECT_LT(largest_difference(logits_of(repaired, ids), logits_of(model, ids)), 1e-3F);
}

TEST(Repair, SaysWhatItCannotDo) {
  const Checkpoint gemma = deep_model("gemma3", 6);
  const std::vector<std::int64_t> dropped{2};
  const std::vector<Token> text = random_text(gemma, 1024);
  EXPECT_THROW(repair(gemma, prune(gemma, dropped), visits_at_seams(6, dropped), text, small_windows()),
               Error);
  const Checkpoint llama = deep_model("llama", 6);
  EXPECT_THROW(repair(llama, prune(llama, dropped), visits_at_seams(6, dropped), std::span(text).first(5),
                      small_windows()),
               Error);
}

}  // namespace
}  // namespace fathom
