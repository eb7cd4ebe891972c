#include "depth/prune.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "depth/recur.h"
#include "depth/tiny.h"

namespace fathom {
namespace {

using Layers = std::vector<std::int64_t>;

/// Makes a layer the identity.
void silence(Checkpoint& model, std::int64_t layer) {
  for (const char* name : {"self_attn.o_proj.weight", "mlp.down_proj.weight"}) {
    Tensor& tensor = model.tensors.at(layer_name(layer, name));
    tensor = make_tensor(DType::f32, tensor.shape,
                         std::vector<float>(static_cast<std::size_t>(tensor.elements())));
  }
}

ProfileOptions small_windows() {
  ProfileOptions options;
  options.context = 16;
  return options;
}

TEST(Prune, WithoutSilentLayersTheSame) {
  for (const char* name : {"llama", "gemma3", "qwen2"}) {
    Checkpoint model = deep_model(name, 6);
    silence(model, 2);
    silence(model, 5);
    const Layers dropped{2, 5};
    const Checkpoint pruned = prune(model, dropped);
    EXPECT_TRUE(pruned.plan.is_plain());
    EXPECT_EQ(pruned.plan.layers, 4);
    const std::vector<Token> ids = random_text(model, 12);
    EXPECT_LT(largest_difference(logits_of(pruned, ids), logits_of(model, ids)), 1e-4F) << name;
  }
}

/// A depth keeps its kind of attention, and the saved model says so.
TEST(Prune, KeepsAttentionTypes) {
  const Checkpoint model = load_checkpoint(load_oracle("gemma3").model);
  const Layers dropped{0};
  const Checkpoint pruned = prune(model, dropped);
  for (std::size_t l = 0; l < pruned.plan.visits.size(); ++l) {
    EXPECT_EQ(pruned.plan.visits[l].type, model.plan.visits[l + 1].type);
  }
  const auto directory = std::filesystem::temp_directory_path() / "fathom_prune_types";
  save_checkpoint(pruned, directory, true);
  const Checkpoint loaded = load_checkpoint(directory);
  const std::vector<Token> ids = random_text(model, 40);
  EXPECT_EQ(logits_of(loaded, ids), logits_of(pruned, ids));
  EXPECT_EQ(loaded.provenance.back()["command"], "prune");
  std::filesystem::remove_all(directory);
}

TEST(Prune, VisitsOfARecursiveModel) {
  const Checkpoint model = deep_model("llama", 6);
  RecurOptions options;
  options.sharing = Sharing::sequence;
  options.init = SharedInit::average;
  options.rank = 3;
  const Checkpoint recursive = recur(model, options, {});  // 0 0 1 1 2 2
  const Layers dropped{1, 2, 3};
  const Checkpoint pruned = prune(recursive, dropped);
  EXPECT_EQ(pruned.plan.layers, 2);
  EXPECT_EQ(pruned.plan.adapters(), 3);
  EXPECT_EQ(pruned.plan.visits[1].layer, 1);
  EXPECT_EQ(decode(*pruned.adapter_tensor(1, "mlp.up_proj.lora_A.weight")),
            decode(*recursive.adapter_tensor(4, "mlp.up_proj.lora_A.weight")));
}

TEST(Prune, Refuses) {
  const Checkpoint model = deep_model("llama", 4);
  for (const Layers& wrong : {Layers{4}, Layers{-1}, Layers{1, 1}, Layers{0, 1, 2, 3}}) {
    EXPECT_THROW(prune(model, wrong), UsageError);
  }
  const std::vector<Token> text = random_text(model, 64);
  EXPECT_THROW(choose_visits(model, 3, PruneMethod::last, text, {}), UsageError);
  EXPECT_THROW(choose_visits(model, 0, PruneMethod::last, text, {}), UsageError);
  EXPECT_THROW(choose_visits(model, 1, PruneMethod::perplexity, text, {}), Error);  // shorter than a window
}

TEST(ChooseVisits, Last) {
  const Checkpoint model = deep_model("llama", 6);
  EXPECT_EQ(choose_visits(model, 2, PruneMethod::last, {}, {}).visits, (Layers{3, 4}));
}

/// Every measuring method finds the layers that do nothing.
TEST(ChooseVisits, SilentLayers) {
  Checkpoint model = deep_model("llama", 6);
  silence(model, 1);
  silence(model, 4);
  const std::vector<Token> text = random_text(model, 64);
  EXPECT_EQ(choose_visits(model, 2, PruneMethod::influence, text, small_windows()).visits, (Layers{1, 4}));
  silence(model, 3);
  EXPECT_EQ(choose_visits(model, 2, PruneMethod::similarity, text, small_windows()).visits, (Layers{3, 4}));
  EXPECT_EQ(choose_visits(model, 2, PruneMethod::influence_block, text, small_windows()).visits,
            (Layers{3, 4}));
}

/// Greedy by loss: no other single layer does less harm.
TEST(ChooseVisits, Perplexity) {
  const Checkpoint model = deep_model("llama", 5);
  const std::vector<Token> text = random_text(model, 16);
  const auto loss = [&](const Checkpoint& candidate) {
    const std::vector<float> logits = logits_of(candidate, std::span(text).first(15));
    const auto vocab = static_cast<std::size_t>(model.config.vocab_size);
    double sum = 0;
    for (std::size_t t = 0; t + 1 < text.size(); ++t) {
      double normaliser = 0;
      for (std::size_t v = 0; v < vocab; ++v)
        normaliser += std::exp(static_cast<double>(logits[t * vocab + v]));
      sum += std::log(normaliser) -
             static_cast<double>(logits[t * vocab + static_cast<std::size_t>(text[t + 1])]);
    }
    return sum;
  };
  const Layers chosen = choose_visits(model, 1, PruneMethod::perplexity, text, small_windows()).visits;
  const double least = loss(prune(model, chosen));
  for (std::int64_t layer = 0; layer < 5; ++layer) {
    const Layers other{layer};
    EXPECT_GE(loss(prune(model, other)), least - 1e-3);
  }
}

TEST(ParseLayers, RangesAndErrors) {
  EXPECT_EQ(parse_layers("21-23,30", 32), (Layers{21, 22, 23, 30}));
  EXPECT_EQ(parse_layers("5,1", 6), (Layers{1, 5}));
  for (const char* wrong :
       {"", "a", "3-", "-3", "5-4", "1,1", "1-3,2", "6", "1,,2", "1 2", "99999999999999999999"}) {
    EXPECT_THROW(parse_layers(wrong, 6), UsageError) << wrong;
  }
}

TEST(PruneMethodNames, AreKnown) {
  EXPECT_EQ(prune_method("influence-block"), PruneMethod::influence_block);
  EXPECT_THROW(prune_method("luck"), UsageError);
}

}  // namespace
}  // namespace fathom
