#include "depth/repair.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "base/error.h"
#include "depth/layerwise.h"
#include "depth/prune.h"
#include "depth/tiny.h"
#include "runtime/model.h"

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
