#include "depth/recur.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"
#include "depth/linear_algebra.h"
#include "depth/profile.h"
#include "depth/tiny.h"
#include "runtime/model.h"

namespace fathom {
namespace {

constexpr std::int64_t full_rank = 1 << 20;

RecurOptions tiny_options(Sharing sharing = Sharing::middle_sequence,
                          SharedInit init = SharedInit::calibrated, std::int64_t rank = 64) {
  RecurOptions options;
  options.sharing = sharing;
  options.init = init;
  options.rank = rank;
  options.context = 16;
  options.calibration_tokens = 256;
  return options;
}

/// shared + b a of one visit's matrix.
Matrix unrolled(const Checkpoint& checkpoint, std::size_t visit, Linear linear) {
  const Visit& at = checkpoint.plan.visits[visit];
  const auto matrix = [](const Tensor& tensor) {
    Matrix m(tensor.shape[0], tensor.shape[1]);
    m.values = decode(tensor);
    return m;
  };
  const std::string name = linear_name(linear);
  Matrix weight = matrix(checkpoint.layer_tensor(at.layer, name + ".weight"));
  multiply(matrix(*checkpoint.adapter_tensor(at.adapter, name + ".lora_B.weight")), Transpose::no,
           matrix(*checkpoint.adapter_tensor(at.adapter, name + ".lora_A.weight")), Transpose::no, 1, 1,
           weight);
  return weight;
}

TEST(ShareLayers, Orders) {
  using Layers = std::vector<std::int64_t>;
  EXPECT_EQ(share_layers(6, 2, Sharing::cycle), (Layers{0, 1, 2, 0, 1, 2}));
  EXPECT_EQ(share_layers(6, 2, Sharing::sequence), (Layers{0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(share_layers(6, 2, Sharing::middle_cycle), (Layers{0, 1, 2, 1, 2, 3}));
  EXPECT_EQ(share_layers(6, 2, Sharing::middle_sequence), (Layers{0, 1, 1, 2, 2, 3}));
  EXPECT_EQ(share_layers(5, 1, Sharing::cycle), (Layers{0, 1, 2, 3, 4}));
  EXPECT_EQ(share_layers(5, 3, Sharing::middle_cycle), (Layers{0, 1, 1, 1, 2}));
  EXPECT_THROW(share_layers(5, 2, Sharing::cycle), UsageError);
  EXPECT_THROW(share_layers(7, 2, Sharing::middle_cycle), UsageError);
  EXPECT_THROW(share_layers(2, 1, Sharing::middle_cycle), UsageError);
  EXPECT_THROW(share_layers(4, 0, Sharing::cycle), UsageError);
  EXPECT_THROW(sharing_from_name("circle"), UsageError);
}

/// Full rank gives the original back, whatever is shared and however it starts.
class FullRank : public testing::TestWithParam<std::string> {};

TEST_P(FullRank, IsTheOriginal) {
  const Checkpoint original = deep_model(GetParam(), 6);
  const std::vector<Token> text = random_text(original, 256);
  const std::vector<Token> ids(text.begin(), text.begin() + 12);
  const std::vector<float> expected = logits_of(original, ids);
  for (const char* sharing : {"cycle", "sequence", "middle-cycle", "middle-sequence"}) {
    for (const char* init : {"average", "stepwise", "lower", "calibrated"}) {
      const RecurOptions options =
          tiny_options(sharing_from_name(sharing), shared_init_from_name(init), full_rank);
      FitReport report;
      const Checkpoint recursive = recur(original, options, text, &report);
      EXPECT_LT(largest_difference(logits_of(recursive, ids), expected), 1e-3F) << sharing << " " << init;
      for (const auto& errors : report.error) {
        for (const double error : errors) EXPECT_LT(error, 1e-4) << sharing << " " << init;
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Models, FullRank,
                         testing::Values("llama", "llama-odd-bias", "qwen2", "qwen3", "gemma", "gemma2",
                                         "gemma3"));

/// Two loops, average: what the two depths miss is opposite, so their pairs are too.
TEST(Recur, AverageOfTwoIsAntisymmetric) {
  const Checkpoint original = deep_model("llama", 4);
  const Checkpoint recursive = recur(original, tiny_options(Sharing::cycle, SharedInit::average, 5), {});
  ASSERT_EQ(recursive.plan.layers, 2);
  for (const Linear linear : all_linears) {
    const std::string name = linear_name(linear);
    const std::vector<float> shared = decode(recursive.layer_tensor(1, name + ".weight"));
    const Matrix first = unrolled(recursive, 1, linear), second = unrolled(recursive, 3, linear);
    double largest = 0, opposite = 0;
    for (std::size_t i = 0; i < shared.size(); ++i) {
      const double one = first.values[i] - shared[i], other = second.values[i] - shared[i];
      largest = std::max(largest, std::abs(one));
      opposite = std::max(opposite, std::abs(one + other));
    }
    EXPECT_GT(largest, 1e-3) << name;
    EXPECT_LT(opposite, 1e-5) << name;
  }
}

TEST(Recur, OneLoopIsTheOriginal) {
  const Checkpoint original = deep_model("gemma3", 4);
  RecurOptions options = tiny_options();
  options.loops = 1;
  const Checkpoint same = recur(original, options, random_text(original, 64));
  EXPECT_TRUE(same.plan.is_plain());
  EXPECT_EQ(same.tensors.size(), original.tensors.size());
  const std::vector<Token> ids = random_text(original, 8);
  EXPECT_EQ(logits_of(same, ids), logits_of(original, ids));
}

/// What tying and relaxing do to the size: rank 0 stores K layers and nothing else.
TEST(Recur, CountsOfParameters) {
  const Checkpoint original = deep_model("qwen3", 6);
  for (const std::int64_t rank : {0, 3, 9}) {
    const Checkpoint recursive = recur(original, tiny_options(Sharing::cycle, SharedInit::average, rank), {});
    EXPECT_EQ(recursive.plan.adapters(), rank == 0 ? 0 : 6);
    std::int64_t norms = original.config.hidden_size;  // the final one
    for (const NormInfo& norm : layer_norms(original.config)) norms += 3 * norm.width;
    const std::int64_t own_norms = rank == 0 ? 0 : 6 * 2 * original.config.head_dim;  // q_norm, k_norm
    EXPECT_EQ(count_parameters(recursive).non_embedding(),
              relaxed_parameters(original.config, 3, 6, rank) + norms + own_norms);
  }
}

TEST(Recur, StepwiseKeepsFirstAndLast) {
  const Checkpoint original = deep_model("llama", 6);
  const Checkpoint recursive = recur(original, tiny_options(Sharing::cycle, SharedInit::stepwise, 0), {});
  const auto down = [](const Checkpoint& model, std::int64_t layer) {
    return decode(model.layer_tensor(layer, "mlp.down_proj.weight"));
  };
  EXPECT_EQ(down(recursive, 0), down(original, 0));
  EXPECT_EQ(down(recursive, 1), down(original, 2));  // floor(5 / 2)
  EXPECT_EQ(down(recursive, 2), down(original, 5));
}

TEST(Recur, ZeroInitialisedPairsAddNothing) {
  const Checkpoint original = deep_model("gemma", 4);
  RecurOptions options = tiny_options(Sharing::sequence, SharedInit::lower, 4);
  options.lora = LoraInit::zero;
  const std::vector<Token> ids = random_text(original, 8);
  const Checkpoint relaxed = recur(original, options, {});
  const auto& a = *relaxed.adapter_tensor(0, "mlp.up_proj.lora_A.weight");
  EXPECT_NE(decode(a), std::vector<float>(static_cast<std::size_t>(a.elements()), 0.0F));
  options.rank = 0;
  EXPECT_EQ(logits_of(relaxed, ids), logits_of(recur(original, options, {}), ids));
}

/// The error falls with the rank, and under the activations the calibrated fit is the better one.
TEST(Recur, CalibratedFitsBetter) {
  const Checkpoint original = deep_model("llama", 6);
  const std::vector<Token> text = random_text(original, 512);
  const std::vector<Token> ids = random_text(original, 16);
  const std::vector<float> expected = logits_of(original, ids);
  const auto distance = [&](SharedInit init, std::int64_t rank) {
    RecurOptions options = tiny_options(Sharing::middle_sequence, init, rank);
    options.calibration_tokens = 512;
    const std::vector<float> logits = logits_of(recur(original, options, text), ids);
    double squares = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) squares += std::pow(logits[i] - expected[i], 2);
    return squares;
  };
  EXPECT_LT(distance(SharedInit::calibrated, 8), distance(SharedInit::average, 8));
  EXPECT_LT(distance(SharedInit::calibrated, 24), distance(SharedInit::calibrated, 8));
}

/// One pass over a text serves profile and fit: each is what a pass of its own gives.
TEST(Recur, CalibratesWithWhatAProfilesPassHasGathered) {
  const Checkpoint original = deep_model("llama", 6);
  const std::vector<Token> text = random_text(original, 256), ids = random_text(original, 12);
  const RecurOptions options = tiny_options(Sharing::middle_sequence, SharedInit::calibrated, 4);
  EXPECT_EQ(tied_visits(original, options), (std::vector<std::int64_t>{1, 2, 3, 4}));
  SecondMoments moments(tied_visits(original, options));
  Engine engine(original, {.compute = float_compute(original)});
  const ProfileOptions profile{.context = options.context, .max_tokens = options.calibration_tokens};
  const Profile beside = profile_depth(engine, text, profile, &moments);
  EXPECT_EQ(beside.angular, profile_depth(original, text, profile).angular);
  const Checkpoint once = recur(original, options, moments), twice = recur(original, options, text);
  EXPECT_EQ(logits_of(once, ids), logits_of(twice, ids));
  EXPECT_EQ(once.provenance, twice.provenance);
}

TEST(Recur, RefusesWhatMakesNoSense) {
  const Checkpoint original = deep_model("llama", 4);
  RecurOptions options = tiny_options(Sharing::middle_sequence, SharedInit::average, -1);
  EXPECT_THROW(recur(original, options, {}), UsageError);
  options.rank = 2;
  const Checkpoint recursive = recur(original, options, {});
  EXPECT_THROW(recur(recursive, options, {}), UsageError);  // not plain any more
  options.init = SharedInit::calibrated;
  EXPECT_THROW(recur(original, options, random_text(original, 8)), Error);  // shorter than a window
}

}  // namespace
}  // namespace fathom
