#include "eval/speed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "base/process.h"
#include "base/progress.h"
#include "base/threads.h"
#include "eval/bench.h"
#include "model/checkpoint.h"
#include "oracle.h"

namespace fathom {
namespace {

/// On one thread: to start a parallel loop over a tiny model takes longer than to run it.
class SpeedOf : public testing::Test {
 protected:
  explicit SpeedOf(const std::string& name = "llama")
      : checkpoint_(load_checkpoint(load_oracle(name).model)) {
    set_threads(1);
    set_quiet(true);
    engine_.emplace(checkpoint_);
  }
  Checkpoint checkpoint_;
  std::optional<Engine> engine_;
};

TEST_F(SpeedOf, BothPhasesWithinTheContext) {
  const Speed speed = measure_speed(*engine_);  // 512 and 64 tokens; the model's context is 256
  EXPECT_EQ(speed.prompt_tokens, 128);
  EXPECT_EQ(speed.generated_tokens, 64);
  EXPECT_GT(speed.prompt, 0);
  EXPECT_GT(speed.generate, 0);
  EXPECT_EQ(to_json(speed)["prompt_tokens"], 128);
}

TEST_F(SpeedOf, AWorkloadIsTimedAsOftenAsAskedAndLeavesNothingBehind) {
  const int before = engine_->open();
  engine_->close(before);
  for (const Workload& work : {Workload{Phase::prompt, 9, 5, 3}, Workload{Phase::generate, 4, 0, 2}}) {
    const std::vector<double> seconds = time_workload(*engine_, work, 3);
    EXPECT_EQ(seconds.size(), 3U);
    for (const double s : seconds) EXPECT_GT(s, 0);
  }
  EXPECT_TRUE(time_workload(*engine_, {Phase::prompt, 2}, 0).empty());  // the warm-up alone
  const int after = engine_->open();
  EXPECT_EQ(after, before);  // numbers of closed sequences are used again
  EXPECT_EQ(engine_->length(after), 0);
  EXPECT_THROW(time_workload(*engine_, {Phase::generate, 7, 250}, 1), Error);  // a context of 256
  EXPECT_EQ(engine_->open(), after + 1);                                       // failed ones are closed too
}

TEST(Workload, NamesAreThoseOfLlamaBench) {
  EXPECT_EQ((Workload{Phase::prompt, 512}.name()), "pp512");
  EXPECT_EQ((Workload{Phase::generate, 128, 4096}.name()), "tg128 @ d4096");
  EXPECT_EQ((Workload{Phase::generate, 64, 128, 16}.name()), "tg64 @ d128 b16");
  EXPECT_EQ((Workload{Phase::prompt, 8, 0, 2}.name()), "pp8 @ b2");
}

TEST(Spread, MeanDeviationAndOrder) {
  const Spread even = spread_of({4, 1, 3, 2});
  EXPECT_DOUBLE_EQ(even.mean, 2.5);
  EXPECT_DOUBLE_EQ(even.median, 2.5);
  EXPECT_DOUBLE_EQ(even.deviation * even.deviation, 5.0 / 3);  // of a sample: n - 1
  EXPECT_DOUBLE_EQ(even.min, 1);
  EXPECT_DOUBLE_EQ(even.max, 4);
  EXPECT_DOUBLE_EQ(spread_of({1, 9, 2}).median, 2);
  EXPECT_DOUBLE_EQ(spread_of({7}).deviation, 0);
  EXPECT_DOUBLE_EQ(spread_of({}).mean, 0);
}

TEST_F(SpeedOf, CostsAreCountedFromTheShapes) {
  const ModelConfig& config = checkpoint_.config;
  const auto visits = static_cast<double>(checkpoint_.plan.visits.size());
  const auto weights = static_cast<double>(engine_->weight_bytes()),
             kv = static_cast<double>(engine_->kv_bytes());
  const auto unrolled = static_cast<double>(count_parameters(checkpoint_).unrolled);
  const auto head = static_cast<double>(config.hidden_size * config.vocab_size);
  const auto width = static_cast<double>(config.heads * config.head_dim);

  const Cost prompt = cost_of({Phase::prompt, 3, 10, 2}, checkpoint_, *engine_);
  EXPECT_DOUBLE_EQ(prompt.bytes, weights + 2 * visits * 13 * kv);
  EXPECT_DOUBLE_EQ(prompt.operations,
                   2 * (2 * unrolled * 3 + 2 * head + 4 * width * visits * (11 + 12 + 13)));
  const Cost generate = cost_of({Phase::generate, 3, 10, 2}, checkpoint_, *engine_);
  EXPECT_DOUBLE_EQ(generate.bytes, 3 * weights + 2 * visits * (11 + 12 + 13) * kv);
  EXPECT_DOUBLE_EQ(generate.operations,
                   2 * (2 * unrolled * 3 + 2 * head * 3 + 4 * width * visits * (11 + 12 + 13)));
}

class SpeedWithWindow : public SpeedOf {
 protected:
  SpeedWithWindow() : SpeedOf("mistral-window") {}
};

TEST_F(SpeedWithWindow, NoMoreThanTheWindowIsRead) {
  const std::int64_t window = checkpoint_.config.attention_types.at(0).window;
  ASSERT_GT(window, 0);
  const auto read = [&](std::int64_t depth) {
    return cost_of({Phase::generate, 1, depth}, checkpoint_, *engine_).bytes;
  };
  EXPECT_LT(read(0), read(window - 1));
  EXPECT_DOUBLE_EQ(read(window - 1), read(5 * window));
}

TEST_F(SpeedOf, ABenchmarkStandsBesideItsCeilings) {
  Progress progress("", 0, "tok");
  const BenchResult result =
      bench(*engine_, checkpoint_, Operand::f32, {Phase::generate, 4, 8}, {}, 2, progress);
  EXPECT_GT(result.rate.min, 0);
  EXPECT_LE(result.rate.min, result.rate.median);
  EXPECT_LE(result.rate.median, result.rate.max);
  EXPECT_EQ(result.product_ceiling.unit, "f32 FMA");
  EXPECT_GT(result.share(), 0);
  EXPECT_DOUBLE_EQ(result.share(), std::max(result.read / result.read_ceiling,
                                            result.operations / result.product_ceiling.rate));
  EXPECT_EQ(to_json(result)["test"], "tg4 @ d8");
}

TEST(Process, KnowsItsAgeAndItsMemory) {
  EXPECT_GT(process_seconds(), 0);
  EXPECT_LT(process_seconds(), 600);
  reset_peak_memory();
  const std::int64_t before = peak_memory();
  const std::vector<char> large(std::size_t{64} << 20, 1);
  EXPECT_GE(peak_memory(), before + (std::int64_t{60} << 20));
  EXPECT_GT(available_memory(), 0);
}

}  // namespace
}  // namespace fathom
