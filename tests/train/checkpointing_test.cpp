// Visits that are computed again in the way back.
#include <gtest/gtest.h>
#include <malloc.h>

#include "base/random.h"
#include "oracle.h"
#include "scratch.h"
#include "train/devices.h"
#include "train/model/model.h"
#include "train/train.h"

namespace fathom {
namespace {

std::vector<std::vector<Token>> documents() {
  Random random(5);
  std::vector<std::vector<Token>> result(12);
  for (auto& document : result) {
    const auto length = 4 + random.below(20);
    for (std::uint64_t i = 0; i < length; ++i) {
      document.push_back(static_cast<Token>(2 + random.below(58)));
    }
  }
  return result;
}

struct Case {
  const char* name;
  const char* model = "llama";
  Trainable trainable = Trainable::all;
  bool within_documents = false, bf16 = true;
  Device device = Device::cpu;
};

class GradientCheckpointing : public testing::TestWithParam<Case> {};

TEST_P(GradientCheckpointing, ChangesNothing) {
  const Case& given = GetParam();
  if (!is_there(given.device)) GTEST_SKIP() << "no GPU";
  TrainOptions options;
  options.context = 16;
  options.micro_batch = 2;
  options.tokens_per_step = 64;
  options.tokens = 64 * 3;
  options.optimiser.learning_rate = 3e-3;
  options.trainable = given.trainable;
  options.lora.targets = {Linear::q, Linear::o, Linear::up};
  options.lora.rank = 4;
  options.lora.alpha = 8;
  options.lora.merge = false;
  options.within_documents = given.within_documents;
  options.bf16 = given.bf16;
  options.device = given.device;
  Checkpoint model = load_checkpoint(load_oracle(given.model).model);
  // The first layers are visited twice: their gradients are sums over visits.
  model.plan.visits.insert(model.plan.visits.begin(), model.plan.visits.begin(), model.plan.visits.end());
  const TrainInputs inputs{.student = model, .text = {{.store = store_documents(documents(), 1, "text")}}};
  const test::Scratch a, b;
  const TrainResult kept = train(inputs, options, a.path(), false);
  options.gradient_checkpointing = true;
  const TrainResult again = train(inputs, options, b.path(), false);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(again.steps[i].loss, kept.steps[i].loss);
    EXPECT_EQ(again.steps[i].gradient_norm, kept.steps[i].gradient_norm);
  }
  for (const auto& [name, tensor] : kept.model.tensors) {
    EXPECT_EQ(decode(again.model.tensors.at(name)), decode(tensor)) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Runs, GradientCheckpointing,
                         testing::Values(Case{.name = "All"}, Case{.name = "Floats", .bf16 = false},
                                         Case{.name = "Lora", .trainable = Trainable::lora},
                                         Case{.name = "WithinDocuments", .within_documents = true},
                                         Case{.name = "SandwichNorms", .model = "gemma2"},
                                         Case{.name = "Torch", .device = Device::torch},
                                         Case{.name = "Cuda", .device = Device::cuda}),
                         [](const auto& instance) { return instance.param.name; });

std::int64_t kept_bytes(bool gradient_checkpointing) {
  const Checkpoint checkpoint = load_checkpoint(load_oracle("llama").model);
  TrainModel model(checkpoint, {.gradient_checkpointing = gradient_checkpointing});
  const at::Tensor ids = at::zeros({8, 64}, at::kLong);
  model.forward(ids);  // what stays whatever is kept
  const auto in_use = [] { return static_cast<std::int64_t>(mallinfo2().uordblks + mallinfo2().hblkhd); };
  const std::int64_t before = in_use();
  const at::Tensor hidden = model.forward(ids);
  return in_use() - before;
}

TEST(GradientCheckpointing, KeepsLess) { EXPECT_LT(kept_bytes(true), kept_bytes(false) / 3); }

}  // namespace
}  // namespace fathom
