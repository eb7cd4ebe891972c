// The loss from the teacher's likeliest tokens against torch's autograd, and their cache on the disk.
#include "train/step/top_k.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>

#include "base/error.h"
#include "base/file.h"
#include "base/progress.h"
#include "base/random.h"
#include "scratch.h"
#include "train/devices.h"
#include "train/small_run.h"
#include "train/step/teacher_cache.h"
#include "train/train.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

/// The teacher's log-probabilities as they are kept: [rows, k].
at::Tensor kept(const TopTokens& top) {
  const auto rows = std::ssize(top.ids) / top.k;
  return at::from_blob(const_cast<std::uint16_t*>(top.log_probs.data()), {rows, top.k}, at::kHalf)
      .to(at::kDouble);
}

at::Tensor ids_of(const TopTokens& top) {
  const auto rows = std::ssize(top.ids) / top.k;
  return at::from_blob(const_cast<std::uint32_t*>(top.ids.data()), {rows, top.k}, at::kInt).to(at::kLong);
}

TEST(TopTokens, AreTorchs) {
  at::manual_seed(1);
  const at::Tensor logits = at::randn({9, 1003}) * 4;
  TopTokens top{.k = 37};
  top.append(4, 1003, logits.data_ptr<float>(), 2);
  top.append(5, 1003, logits.data_ptr<float>() + 4 * 1003, 2);
  const auto [values, ids] = (logits / 2).log_softmax(1).topk(37, 1);
  EXPECT_TRUE(at::equal(ids_of(top), ids));
  EXPECT_LT((kept(top) - values).abs().max().item<double>(), 8e-3);  // half a step of f16 below 16

  const std::vector<float> equal(50, 1.0F);
  TopTokens first{.k = 3};
  first.append(1, 50, equal.data(), 1);
  EXPECT_THAT(first.ids, testing::ElementsAre(0, 1, 2));
}

struct Case {
  const char* name;
  LossWeights weights;
  std::int64_t k = 7;
  double spread = 3;  ///< of the student's logits
  double tolerance = 2e-5;
  at::ScalarType type = at::kFloat;
};

class TopKLoss : public testing::TestWithParam<std::tuple<Device, Case>> {};

TEST_P(TopKLoss, ValuesAndGradientsAreTorchs) {
  const auto& [device, given] = GetParam();
  if (!is_there(device)) GTEST_SKIP() << "no GPU";
  const auto& [name, weights, k, spread, tolerance, type] = given;
  const std::int64_t rows = 23, vocab = 515;
  at::manual_seed(2);
  const at::Tensor teacher = at::randn({rows, vocab}) * 3;
  at::Tensor logits = (at::randn({rows, vocab}) * spread).to(type);
  const double t = weights.temperature;
  TopTokens top{.k = k};
  top.append(rows, vocab, teacher.data_ptr<float>(), weights.temperature);
  std::vector<std::int32_t> labels(rows);
  for (std::int64_t i = 0; i < rows; ++i) {
    // Among the k in every other row.
    labels[i] = static_cast<std::int32_t>(i % 2 == 0 ? top.ids[i * k + k / 2] : i * 7 % vocab);
  }
  labels[5] = -1;

  const at::Tensor x = logits.to(at::kDouble).set_requires_grad(true);
  const double c = weights.softcap;
  const at::Tensor scores = c != 0 ? (x / c).tanh() * c : x;
  const at::Tensor ce =
      at::nll_loss(scores.log_softmax(1), at::tensor(at::ArrayRef<std::int32_t>(labels), at::kLong), {},
                   at::Reduction::Sum, /*ignore_index=*/-1);
  const at::Tensor ids = ids_of(top), log_q = (scores / t).log_softmax(1);
  at::Tensor log_p = kept(top);
  at::Tensor p_rest = 1 - log_p.exp().sum(1);
  at::Tensor kl;
  if (k == vocab) {
    log_p = log_p.log_softmax(1);
    kl = (log_p.exp() * (log_p - log_q.gather(1, ids))).sum();
  } else {
    const at::Tensor others = at::ones_like(log_q, at::kBool).scatter(1, ids, false);
    const at::Tensor log_rest = log_q.masked_fill(others.logical_not(), -1e300).logsumexp(1);
    kl = (log_p.exp() * (log_p - log_q.gather(1, ids))).sum() + (p_rest * (p_rest.log() - log_rest)).sum();
  }
  kl = kl * (t * t);
  ((ce * weights.cross_entropy + kl * weights.divergence) * weights.scale).backward();

  const Parameter none;
  const at::Tensor found = logits.to(operations(device).device());
  const LossSums sums = operations(device).head(&none, false)->top_k_loss(weights, found, top, 0, labels);
  EXPECT_NEAR(sums.cross_entropy / ce.item<double>(), 1, tolerance);
  EXPECT_NEAR(sums.divergence / kl.item<double>(), 1, tolerance);
  const double largest = x.grad().abs().max().item<double>();
  EXPECT_LT((found.to(at::kCPU, at::kDouble) - x.grad()).abs().max().item<double>() / largest, tolerance);

  // Never more than the whole divergence, and all of it where k is the vocabulary.
  const double whole =
      at::kl_div(log_q, (teacher.to(at::kDouble) / t).log_softmax(1), at::Reduction::Sum, true)
          .item<double>() *
      t * t;
  EXPECT_LT(kl.item<double>(), whole * 1.001);
  if (k == vocab) {
    EXPECT_GT(kl.item<double>(), whole * 0.999);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Losses, TopKLoss,
    testing::Combine(
        each_device,
        testing::Values(Case{"Divergence", {.cross_entropy = 0, .divergence = 1}},
                        Case{"Both", {.cross_entropy = 0.3F, .divergence = 0.7F, .scale = 0.1F}},
                        Case{"Temperature", {.cross_entropy = 0.5F, .divergence = 2, .temperature = 3}},
                        Case{"SoftCap",
                             {.cross_entropy = 1, .divergence = 1, .temperature = 2, .softcap = 5}},
                        Case{"AStudentThatIsSure", {.cross_entropy = 0, .divergence = 1}, 7, 40},
                        Case{"AllOfTheVocabulary", {.cross_entropy = 1, .divergence = 1}, 515},
                        Case{"Bfloat16", {.cross_entropy = 1, .divergence = 1}, 7, 3, 1e-2, at::kBFloat16})),
    [](const auto& instance) {
      return test_name(std::get<0>(instance.param)) + std::get<1>(instance.param).name;
    });

TokenStore text() {
  Random random(3);
  std::vector<std::vector<Token>> documents(20);
  for (auto& document : documents) {
    for (int i = 0; i < 15; ++i) {
      const auto token = static_cast<Token>(2 + random.below(58));
      document.push_back(i < 4 ? ~token : token);  // the first ones are read only
    }
  }
  return store_documents(documents, 1, "text");
}

/// 20 sequences, twice.
TrainOptions cached(const fs::path& cache) {
  TrainOptions options = small(10);
  options.micro_batch = 3;
  options.loss.cross_entropy = 0;
  options.loss.divergence = 1;
  options.teacher_cache = {.folder = cache, .top_k = 8};
  options.bf16 = false;
  return options;
}

std::vector<double> divergences(const TrainOptions& options, const Checkpoint& teacher,
                                const fs::path& work) {
  Checkpoint student = teacher;
  student.plan.visits.pop_back();
  const TrainInputs inputs{.student = student, .teacher = &teacher, .text = {{.store = text()}}};
  std::vector<double> result;
  for (const TrainStep& step : train(inputs, options, work, false).steps) result.push_back(step.kl);
  return result;
}

TEST(TeacherCache, AnswersOnceForEverySequence) {
  set_quiet(true);
  const test::Scratch scratch;
  const TrainOptions options = cached(scratch / "cache");
  const std::vector<double> first = divergences(options, tiny(), scratch / "a");
  EXPECT_LT(first.back(), first.front());
  const fs::path file = scratch / "cache" / "top.bin";
  const auto written = fs::last_write_time(file);
  // Another order of the same sequences.
  TrainOptions other = options;
  other.seed = 5;
  divergences(other, tiny(), scratch / "b");
  EXPECT_EQ(fs::last_write_time(file), written);
  EXPECT_EQ(divergences(options, tiny(), scratch / "c"), first);
  EXPECT_EQ(fs::last_write_time(file), written);

  // What was torn or damaged is made anew: a slot whose end is missing, one with another byte.
  const std::string whole = read_file(file);
  for (const std::string& damaged :
       {whole.substr(0, whole.size() / 2 + 7), std::string(whole).replace(40, 1, "x")}) {
    std::ofstream(file) << damaged;
    EXPECT_EQ(divergences(options, tiny(), scratch / "d"), first);
    EXPECT_EQ(read_file(file), whole);
  }
}

class TeacherCacheOn : public testing::TestWithParam<Device> {};

TEST_P(TeacherCacheOn, IsCloseToTheWholeDivergence) {
  if (!is_there(GetParam())) GTEST_SKIP() << "no GPU";
  const test::Scratch scratch;
  TrainOptions options = cached(scratch / "cache");
  options.device = GetParam();
  options.teacher_cache.top_k = 1'000;  // all of the vocabulary
  const std::vector<double> cached = divergences(options, tiny(), scratch / "a");
  options.teacher_cache = {};
  const std::vector<double> whole = divergences(options, tiny(), scratch / "b");
  for (std::size_t i = 0; i < whole.size(); ++i) EXPECT_NEAR(cached[i] / whole[i], 1, 5e-3) << i;
}

INSTANTIATE_TEST_SUITE_P(Devices, TeacherCacheOn, each_device,
                         [](const auto& instance) { return test_name(instance.param); });

TEST(TeacherCache, KnowsWhatItWasMadeFrom) {
  const test::Scratch scratch;
  TrainOptions options = cached(scratch / "cache");
  options.tokens = 64;
  divergences(options, tiny(), scratch / "a");
  const auto message = [&](const TrainOptions& changed, const Checkpoint& teacher) -> std::string {
    try {
      divergences(changed, teacher, scratch / "b");
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  TrainOptions changed = options;
  changed.teacher_cache.top_k = 9;
  EXPECT_THAT(message(changed, tiny()), testing::HasSubstr("top_k (was 8, is 9)"));
  changed = options;
  changed.context = 32;
  EXPECT_THAT(message(changed, tiny()), testing::HasSubstr("context (was 16, is 32)"));
  changed = options;
  changed.loss.temperature = 2;
  EXPECT_THAT(message(changed, tiny()), testing::HasSubstr("temperature"));
  EXPECT_THAT(message(options, load_checkpoint(load_oracle("llama-bf16").model)),
              testing::HasSubstr("teacher (was"));
  EXPECT_EQ(message(options, tiny()), "");

  const std::int64_t many = std::int64_t{1} << 50;
  EXPECT_THROW(TeacherCache(scratch / "large", {}, {.k = 8, .vocab = 100'000, .context = 16}, many), Error);
}

TEST(TeacherCache, GivesBackWhatIsItsOwn) {
  const test::Scratch scratch;
  TeacherCache cache(scratch / "cache", {}, {.k = 2, .vocab = 100'000, .context = 4}, 8);
  const TopTokens top{.k = 2, .ids = {99'999, 1, 70'000, 65'536}, .log_probs = {1, 2, 3, 4}};
  cache.write(1, top, 1, 1);
  TopTokens found{.k = 2};
  EXPECT_FALSE(cache.read(0, 1, found));
  EXPECT_FALSE(cache.read(2, 1, found));
  ASSERT_TRUE(cache.read(1, 1, found));
  EXPECT_EQ(found.ids, (std::vector<std::uint32_t>{70'000, 65'536}));
  EXPECT_EQ(found.log_probs, (std::vector<std::uint16_t>{3, 4}));

  // What another cache has left there is not taken for this one's.
  fs::remove(scratch / "cache" / "cache.json");
  TeacherCache other(scratch / "cache", {{"text", "another"}}, {.k = 2, .vocab = 100'000, .context = 4}, 8);
  EXPECT_FALSE(other.read(1, 1, found));
}

}  // namespace
}  // namespace fathom
