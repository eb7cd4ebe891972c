#include "compress/job_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/progress.h"
#include "base/threads.h"
#include "compress/judge.h"
#include "depth/linear_algebra.h"
#include "eval/speed.h"

namespace fathom {
namespace {

// Enough of each: more was not worth its time where there is plenty.
constexpr std::int64_t most_windows = 64;  // of 512: the standard error of the mean loss is about 0.02
constexpr std::int64_t most_profile_tokens = 16'384;
constexpr std::int64_t most_rounds = 24;  // docs/tying.md
constexpr int most_repetitions = 3;
// The least that makes sense.
constexpr std::int64_t least_windows = 4, least_profile_windows = 2, least_rounds = 4, least_documents = 6;

// Of the preparation's time; the rest of it is what models need to be packed, timed and let write.
constexpr double sample_share = 0.25, profile_share = 0.3, fit_share = 0.1, window_share = 0.35;
constexpr double speed_share = 0.015;  // of the whole job, for one model
// Text gone over four times teaches almost as much as new text (Muennighoff et al. 2023, arXiv 2305.16264).
// The profile wants so many of its tokens, too.
constexpr double epochs = 4;
// A round's products are not all of its time: bases are made orthonormal, and the first round takes more
// steps.
constexpr double fit_overhead = 1.4;

template <typename Work>
double seconds_of(Work&& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double rate_of(Engine& engine, const Workload& work) {
  return static_cast<double>(work.total()) / time_workload(engine, work, 1).front();
}

/// Single precision, each thread by itself as in the calibrated fit.
double multiply_pace() {
  constexpr std::int64_t size = 768;
  Random random(0);
  const Matrix x = gaussian(size, size, random);
  std::vector<Matrix> products(static_cast<std::size_t>(thread_count()));
  const auto multiply_all = [&] {
    parallel_for(std::ssize(products),
                 [&](std::int64_t i) { products[static_cast<std::size_t>(i)] = multiply(x, x); });
  };
  multiply_all();
  const double operations = 2.0 * size * size * size * thread_count();
  return operations / seconds_of(multiply_all);
}

/// The most of `whole` that takes `seconds` at `pace` a second, from `least` to `most`.
std::int64_t within(double seconds, double pace, std::int64_t least, std::int64_t most) {
  return std::clamp(static_cast<std::int64_t>(std::min(std::max(seconds, 0.0) * pace, 1e15)), least,
                    std::max(least, most));
}

}  // namespace

Pace measure_pace(Engine& engine, double pack_seconds) {
  constexpr std::int64_t prompt = 128, written = 4, one_text = 8;
  Pace pace{.pack_seconds = pack_seconds};
  const std::int64_t context = engine.max_context();
  pace.read = pace.judge = rate_of(engine, {Phase::prompt, std::min(prompt, context)});
  for (const std::int64_t batch : {32, 128}) {
    if (batch > 32 && thread_count() < 8) continue;  // few cores are busy with few texts
    const double rate = rate_of(engine, {Phase::generate, std::min(written, context), 0, batch});
    if (rate < pace.write) continue;
    pace.write = rate;
    pace.write_batch = batch;
  }
  pace.write_one = rate_of(engine, {Phase::generate, std::min(one_text, context)});
  pace.multiply = multiply_pace();
  pace.train = pace.read / 6;
  return pace;
}

JobPlan plan_job(const JobNeeds& needs, const Pace& pace) {
  const double seconds = needs.minutes * 60, n = needs.candidates;
  const auto context = static_cast<double>(needs.context);
  JobPlan plan;

  const double texts = static_cast<double>(judged_sample_tokens()) / pace.write_one;
  const double timing = timed_prompt_tokens / pace.read + timed_generated_tokens / pace.write_one;
  plan.speed_repetitions =
      static_cast<int>(within(speed_share * seconds / timing - 1, 1, 1, most_repetitions));
  plan.speed_seconds = timing * (plan.speed_repetitions + 1);
  const double fixed = 2 * n * pace.pack_seconds + (1 + n) * texts + plan.speed_seconds;
  const double rest = seconds / 3 - fixed;

  plan.windows = within(window_share * rest / (1 + 2 * n), pace.judge / context, least_windows, most_windows);
  plan.judge_seconds = pace.pack_seconds + texts + static_cast<double>(plan.windows) * context / pace.judge;

  // To repair what is cut the original's states go through all layers, and some of its own; what is tied goes
  // through them three times.
  const double repair_passes = needs.round_operations > 0 ? 5 : 1;
  double of_token = (1 + repair_passes) / pace.read;
  if (needs.calibration_operations > 0) of_token += needs.calibration_operations / pace.multiply;
  const std::int64_t profile_windows = within(profile_share * rest, 1 / (of_token * context),
                                              least_profile_windows, most_profile_tokens / needs.context);
  plan.profile_tokens = profile_windows * needs.context;
  plan.repair_seconds = static_cast<double>(plan.profile_tokens) * repair_passes / pace.read;
  plan.profile_seconds = static_cast<double>(plan.profile_tokens) * of_token - plan.repair_seconds;

  if (needs.round_operations > 0) {
    const double of_round = fit_overhead * needs.round_operations / pace.multiply;
    plan.rounds = within(fit_share * rest, 1 / of_round, least_rounds, most_rounds);
    plan.fit_seconds = static_cast<double>(plan.rounds) * of_round;
  }

  plan.preparation_seconds = plan.profile_seconds + plan.fit_seconds + plan.repair_seconds +
                             (1 + 2 * n) * plan.judge_seconds - n * texts + plan.speed_seconds;
  const double judging = n * (plan.judge_seconds + plan.speed_seconds);
  if (needs.samples) {
    const double learned = pace.train * (seconds - plan.preparation_seconds - judging) / n;  // by a candidate
    const auto wanted = std::max(static_cast<std::int64_t>(learned / epochs), plan.profile_tokens);
    plan.sample_tokens =
        within(sample_share * rest, pace.write, least_documents * (needs.context + 1), wanted);
    plan.sample_seconds = static_cast<double>(plan.sample_tokens) / pace.write;
    plan.preparation_seconds += plan.sample_seconds;
  }
  plan.training_seconds =
      std::max(seconds - plan.preparation_seconds - judging, seconds * least_training_share);
  return plan;
}

std::string describe(const JobPlan& plan, const JobNeeds& needs, const std::string& step) {
  const double judging = needs.candidates * (plan.judge_seconds + plan.speed_seconds);
  const double whole = plan.preparation_seconds + plan.training_seconds + judging;
  std::string text = fmt::format("about {}:\n", format_duration(whole));
  if (whole > needs.minutes * 66)
    text = fmt::format("about {}, not --minutes {}, so that training gets more than half of those:\n",
                       format_duration(whole), needs.minutes);
  const auto add = [&](double seconds, const std::string& what) {
    text += fmt::format("  {:>7}  {}\n", format_duration(seconds), what);
  };
  if (needs.samples)
    add(plan.sample_seconds, fmt::format("the model writes {} tokens to learn from", plan.sample_tokens));
  add(plan.profile_seconds,
      fmt::format("profile{} on {} tokens", needs.calibration_operations > 0 ? " and calibrate" : "",
                  plan.profile_tokens));
  if (plan.rounds > 0) add(plan.fit_seconds, fmt::format("tie layers in {} rounds", plan.rounds));
  add(plan.repair_seconds, "repair what is cut, in closed form");
  add(plan.preparation_seconds - plan.sample_seconds - plan.profile_seconds - plan.fit_seconds -
          plan.repair_seconds,
      fmt::format("judge the original, what is cut and what is repaired, on {} windows of {} tokens",
                  plan.windows, needs.context));
  add(plan.training_seconds, fmt::format("train, {}", step));
  add(judging, "judge what is trained");
  return text;
}

}  // namespace fathom
