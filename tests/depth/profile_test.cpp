#include "depth/profile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "base/error.h"
#include "depth/tiny.h"

namespace fathom {
namespace {

TEST(AngularDistance, KnownAngles) {
  EXPECT_EQ(angular_distance(1), 0);
  EXPECT_EQ(angular_distance(-1), 1);
  EXPECT_DOUBLE_EQ(angular_distance(0), 0.5);
  EXPECT_EQ(angular_distance(1 + 1e-9), 0);  // rounding
  EXPECT_EQ(angular_distance(-1 - 1e-9), 1);
}

double cosine(const float* x, const float* y, std::size_t width) {
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < width; ++i) {
    xy += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    xx += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    yy += static_cast<double>(y[i]) * static_cast<double>(y[i]);
  }
  return xy / std::sqrt(xx * yy);
}

/// Against the hidden states that transformers computed: every block, the one from layer 0 and the one to the
/// state before the final norm included.
class ProfileOracle : public testing::TestWithParam<std::string> {};

TEST_P(ProfileOracle, DistancesAndInfluence) {
  const Oracle oracle = load_oracle(GetParam());
  const Checkpoint checkpoint = load_checkpoint(oracle.model);
  const auto width = static_cast<std::size_t>(checkpoint.config.hidden_size);
  ProfileOptions options;
  options.context = static_cast<std::int64_t>(oracle.ids.size());
  for (const bool last : {false, true}) {
    options.last_token_only = last;
    const Profile profile = profile_depth(checkpoint, oracle.ids, options);
    ASSERT_EQ(profile.angular.size() + 1, oracle.hidden.size());
    EXPECT_EQ(profile.tokens, options.context);
    for (std::size_t n = 1; n < oracle.hidden.size(); ++n) {
      ASSERT_EQ(profile.angular[n - 1].size(), oracle.hidden.size() - n);
      for (std::size_t l = 0; l + n < oracle.hidden.size(); ++l) {
        double sum = 0, cosines = 0;
        const std::size_t first = last ? oracle.ids.size() - 1 : 0;
        for (std::size_t t = 0; t < oracle.ids.size(); ++t) {
          const double c = cosine(&oracle.hidden[l][t * width], &oracle.hidden[l + n][t * width], width);
          cosines += c;
          if (t >= first) sum += std::acos(std::clamp(c, -1.0, 1.0)) / std::numbers::pi;
        }
        EXPECT_NEAR(profile.angular[n - 1][l], sum / static_cast<double>(oracle.ids.size() - first), 1e-4);
        if (n == 1) {
          EXPECT_NEAR(profile.block_influence[l], 1 - cosines / static_cast<double>(oracle.ids.size()), 1e-4);
        }
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Models, ProfileOracle, testing::Values("llama", "gemma2", "qwen3"));

/// A layer that adds nothing has ratio 0 and influence 0, and is the most similar block.
TEST(Profile, ASilentLayer) {
  Checkpoint model = deep_model("llama", 5);
  for (const char* name : {"self_attn.o_proj.weight", "mlp.down_proj.weight"}) {
    Tensor& tensor = model.tensors.at(layer_name(3, name));
    tensor = make_tensor(DType::f32, tensor.shape,
                         std::vector<float>(static_cast<std::size_t>(tensor.elements())));
  }
  ProfileOptions options;
  options.context = 16;
  options.max_tokens = 48;
  const Profile profile = profile_depth(model, random_text(model, 70), options);
  EXPECT_EQ(profile.tokens, 48);
  EXPECT_EQ(most_similar_block(profile, 1), 3);
  EXPECT_NEAR(profile.angular[0][3], 0, 1e-6);
  EXPECT_NEAR(profile.block_influence[3], 0, 1e-6);
  EXPECT_EQ(profile.attention[3].p90, 0);
  EXPECT_EQ(profile.ffn[3].median, 0);
  for (const std::size_t l : {0U, 1U, 2U, 4U}) {
    EXPECT_GT(profile.attention[l].p10, 0);
    EXPECT_LE(profile.attention[l].p10, profile.attention[l].median);
    EXPECT_LE(profile.ffn[l].median, profile.ffn[l].p90);
    EXPECT_GT(profile.block_influence[l], 1e-3);
  }
}

TEST(Profile, BosStandsBeforeEachWindowAndIsNotCounted) {
  const Checkpoint model = deep_model("gemma", 3);
  ProfileOptions options;
  options.context = 8;
  const std::vector<Token> text = random_text(model, 16);
  const Profile plain = profile_depth(model, text, options);
  options.bos = 1;
  const Profile with_bos = profile_depth(model, text, options);
  EXPECT_EQ(plain.tokens, 16);
  EXPECT_EQ(with_bos.tokens, 16);
  EXPECT_NE(plain.block_influence, with_bos.block_influence);
}

TEST(Profile, Refuses) {
  const Checkpoint model = deep_model("llama", 3);
  EXPECT_THROW(profile_depth(model, random_text(model, 10), {}), Error);
  ProfileOptions options;
  options.context = 8;
  const Profile profile = profile_depth(model, random_text(model, 10), options);
  EXPECT_THROW(most_similar_block(profile, 4), UsageError);
  EXPECT_THROW(most_similar_block(profile, 0), UsageError);
}

}  // namespace
}  // namespace fathom
