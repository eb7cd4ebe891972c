#include "compress/compress.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/threads.h"
#include "compress/candidates.h"
#include "compress/data.h"
#include "compress/job_plan.h"
#include "compress/judge.h"
#include "compress/step_size.h"
#include "depth/profile.h"
#include "model/checkpoint.h"
#include "runtime/engine.h"
#include "runtime/model.h"
#include "text/tokenizer.h"
#include "train/run/device.h"
#include "train/run/run_folder.h"
#include "train/train.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

class Clock {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  double minutes() const { return seconds() / 60; }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void say(const std::string& text) { fmt::print(stderr, "{}\n", text); }

void check(const CompressOptions& options) {
  if (!(options.target > 0 && options.target < 1))
    fail_usage("--target is {}, expected a fraction between 0 and 1", options.target);
  if (!(options.minutes > 0)) fail_usage("--minutes is {}, expected more than 0", options.minutes);
  if (options.method != "prune" && options.method != "recur" && options.method != "auto") {
    fail_usage("--method is '{}', expected prune, recur or auto", options.method);
  }
  check_save_target(options.out, options.overwrite);
}

/// OUT.work, which one job has at a time. The model's own corpus stays in it, for a job that is repeated; the
/// training runs' checkpoints, gigabytes that nobody resumes, go, however the job ends.
class WorkFolder {
 public:
  explicit WorkFolder(const fs::path& out) : path_(beside(out, ".work")) {
    lock_.emplace(path_ / "lock");
    if (lock_->held()) return;
    fail("{}: {} is working in it: wait for its end, or choose another --out", path_.string(),
         lock_->holder());
  }
  ~WorkFolder() {
    std::error_code ignored;
    fs::remove_all(run(), ignored);
    lock_.reset();
    fs::remove(path_, ignored);  // only where it is empty
  }
  WorkFolder(const WorkFolder&) = delete;
  WorkFolder& operator=(const WorkFolder&) = delete;

  const fs::path& path() const { return path_; }
  fs::path run() const { return path_ / "run"; }

 private:
  fs::path path_;
  std::optional<FileLock> lock_;
};

Json curve_of(const TrainResult& result) {
  Json curve = Json::array();
  for (const TrainStep& step : result.steps) {
    curve.push_back({{"step", step.step},
                     {"tokens", step.tokens},
                     {"loss", step.loss},
                     {"learning_rate", step.learning_rate},
                     {"seconds", step.seconds}});
  }
  return curve;
}

/// How much of the loss in log-perplexity the training won back.
double recovered(const Json& before, const Json& cut, const Json& trained) {
  const double lost = cut["nll"].get<double>() - before["nll"].get<double>();
  return lost > 0 ? (cut["nll"].get<double>() - trained["nll"].get<double>()) / lost : 0;
}

/// A candidate this much behind the best in loss when training begins does not get minutes of it: they do not
/// turn the order round (SmolLM2, 3 minutes each: perplexities of 32.5 and 40.3 became 26.0 and 35.1).
constexpr double most_behind = 0.1;

/// The figures of what a candidate's training begins with.
const Json& start_of(const Json& candidate) {
  return candidate.contains("repaired") ? candidate["repaired"] : candidate["cut"];
}

/// What all candidates' trainings have in common.
TrainOptions training_options(const CompressOptions& options, std::int64_t context, Token bos) {
  TrainOptions training;
  training.loss.cross_entropy = 0;
  training.loss.divergence = 1;
  training.context = context;
  training.seed = options.seed;
  training.bos = bos;
  training.device = found_device(options.device);
  training.tokens = std::int64_t{1} << 40;
  return training;
}

/// The machine's pace, with those of the device that trains and judges.
Pace pace_of(Engine& engine, double pack_seconds, const StepSize& step) {
  constexpr double reading = 4;  // a step is the teacher's reading, and three times the student's
  Pace pace = measure_pace(engine, pack_seconds);
  if (step.tokens_per_second == 0) return pace;
  pace.train = step.tokens_per_second;
  pace.judge = reading * step.tokens_per_second;
  return pace;
}

JobNeeds needs_of(const CompressOptions& options, const Checkpoint& original,
                  const std::optional<RecurOptions>& recursion, std::int64_t context) {
  JobNeeds needs{.minutes = options.minutes,
                 .candidates = options.method == "auto" ? 2 : 1,
                 .samples = options.text.empty(),
                 .context = context};
  if (recursion) {
    // A moment is a multiplication and an addition for each value of its lower triangle, half of them all.
    const std::int64_t values = moment_bytes(original.config) / static_cast<std::int64_t>(sizeof(float));
    needs.calibration_operations =
        static_cast<double>(std::ssize(tied_visits(original, *recursion)) * values);
    needs.round_operations = round_operations(original, *recursion);
  }
  return needs;
}

/// What the original shows of a text in one pass: its profile, and what the calibrated fit has to know, where
/// that fits into memory.
struct Statistics {
  Profile profile;
  std::optional<SecondMoments> moments;
};

Statistics measure_statistics(Engine& engine, std::span<const Token> ids, const ProfileOptions& options,
                              std::span<const std::int64_t> tied) {
  constexpr std::int64_t most_bytes = std::int64_t{4} << 30;
  Statistics result;
  const bool fit = std::ssize(tied) * moment_bytes(engine.config()) <= most_bytes;
  if (!tied.empty() && fit) result.moments.emplace(tied);
  result.profile = profile_depth(engine, ids, options, result.moments ? &*result.moments : nullptr);
  return result;
}

/// The restructured models. Gives the moments' memory away.
std::vector<Candidate> make_candidates(const Checkpoint& original, const CompressOptions& options,
                                       const std::optional<RecurOptions>& recursion, Statistics& statistics,
                                       std::span<const Token> calibration) {
  std::vector<Candidate> candidates;
  if (options.method != "recur") candidates.push_back(prune_to(original, statistics.profile, options.target));
  if (recursion) {
    candidates.push_back(
        recur_to(original, *recursion, statistics.moments ? &*statistics.moments : nullptr, calibration));
    statistics.moments.reset();
  }
  return candidates;
}

/// Puts the model, the others beside it, account and report into --out.
void save(const Checkpoint& chosen, const std::map<std::string, Checkpoint>& others, const Json& account,
          const CompressOptions& options) {
  save_checkpoint(chosen, options.out, options.overwrite);
  for (const Json& candidate : account["candidates"]) {
    const auto method = candidate["method"].get<std::string>();
    const fs::path runner_up = options.out / ("runner-up-" + method);
    fs::remove_all(runner_up);  // an earlier job's
    if (const auto other = others.find(method); other != others.end())
      save_checkpoint(other->second, runner_up);
  }
  write_file(options.out / "account.json",
             account.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  write_file(options.out / "report.html", account_report(account));
}

Json to_json(const JobPlan& plan) {
  return {{"sample_tokens", plan.sample_tokens},
          {"profile_tokens", plan.profile_tokens},
          {"rounds", plan.rounds},
          {"windows", plan.windows},
          {"preparation_seconds", plan.preparation_seconds},
          {"training_seconds", plan.training_seconds}};
}

}  // namespace

Json compress(const CompressOptions& options) {
  check(options);
  const Clock clock;
  const Checkpoint original = load_checkpoint(options.model);
  const Tokenizer tokenizer = load_tokenizer(options.model);
  const std::int64_t context = std::min<std::int64_t>(512, original.config.max_positions);
  const Token bos = tokenizer.bos().value_or(-1);
  std::optional<RecurOptions> recursion;
  if (options.method != "prune")
    recursion = recursion_within(original, options.target);  // an impossible target shows before any work
  const WorkFolder work(options.out);
  check_save_target(options.out,
                    options.overwrite);  // again: a job that ended meanwhile may have saved there

  say(fmt::format("{}: {}, {} parameters without embeddings; at most {:.0f}% of them are to stay",
                  options.model.string(), original.plan.describe(),
                  format_count(count_parameters(original).non_embedding()), options.target * 100));
  TrainOptions training = training_options(options, context, bos);
  const StepSize step = probe_step(original, training);
  training.micro_batch = step.sequences;
  training.tokens_per_step = step.sequences * context;
  const Compute compute = float_compute(original);
  const double packing = clock.seconds();
  std::optional<Engine> engine(std::in_place, original, EngineOptions{.compute = compute});
  const Pace pace = pace_of(*engine, clock.seconds() - packing, step);
  const JobNeeds needs = needs_of(options, original, recursion, context);
  const JobPlan plan = plan_job(needs, pace);
  say(describe(plan, needs, describe(step, training)));

  const Data data =
      gather_data(*engine, tokenizer, options,
                  {.context = context,
                   // Twice what is likely to be learned.
                   .read_tokens = static_cast<std::int64_t>(2 * pace.train * options.minutes * 60),
                   .sample_tokens = plan.sample_tokens,
                   .sample_batch = pace.write_batch,
                   .calibration_tokens = plan.profile_tokens + context,
                   .eval_tokens = plan.windows * context},
                  work.path());
  const TokenStore text = store_documents(data.train, data.separator, data.account["train"]);
  const Judge judge(tokenizer, data.eval,
                    {.context = context,
                     .windows = plan.windows,
                     .bos = bos,
                     .speed_repetitions = plan.speed_repetitions,
                     .compute = compute,
                     .device = training.device});
  const Json before = judge.measure(original, *engine, Judged::speed);
  if (recursion) {
    recursion->seed = options.seed;
    recursion->bos = bos;
    recursion->context = context;
    recursion->rounds = plan.rounds;
    recursion->calibration_tokens = std::min(plan.profile_tokens, std::ssize(data.calibration));
  }
  const ProfileOptions profiling{.context = context, .max_tokens = plan.profile_tokens, .bos = bos};
  Statistics statistics =
      measure_statistics(*engine, data.calibration, profiling,
                         recursion ? tied_visits(original, *recursion) : std::vector<std::int64_t>());
  engine.reset();  // training needs the memory
  const std::vector<Candidate> candidates =
      make_candidates(original, options, recursion, statistics, data.calibration);

  Json account = {{"version", FATHOM_VERSION},
                  {"options",
                   {{"model", options.model.string()},
                    {"target", options.target},
                    {"method", options.method},
                    {"minutes", options.minutes},
                    {"seed", options.seed}}},
                  {"machine",
                   {{"threads", thread_count()},
                    {"backend", device_name(Device::cpu)},
                    {"trained_on", device_name(training.device)}}},
                  {"job", to_json(plan)},
                  {"data", data.account},
                  {"profile", to_json(statistics.profile)},
                  {"before", before},
                  {"candidates", Json::array()}};
  std::vector<Checkpoint> starts;  // what each training begins with
  double least = std::numeric_limits<double>::infinity();
  for (const Candidate& candidate : candidates) {
    say(fmt::format("{}: {}", candidate.method, candidate.what));
    account["candidates"].push_back(
        {{"method", candidate.method}, {"what", candidate.what}, {"why", candidate.why}});
    Json& entry = account["candidates"].back();
    starts.push_back(candidate.cut);
    const std::string reason = why_no_repair(candidate.cut, candidate.repairs);
    entry["cut"] = judge.measure(candidate.cut, reason.empty() ? Judged::loss : Judged::samples);
    if (reason.empty()) {
      starts.back() = repair(original, candidate.cut, candidate.repairs, data.calibration,
                             {.context = context, .max_tokens = plan.profile_tokens, .bos = bos});
      entry["repaired"] = judge.measure(starts.back(), Judged::samples);
    } else {
      say(fmt::format("{} is not repaired: {}", candidate.method, reason));
    }
    least = std::min(least, start_of(entry)["nll"].get<double>());
  }
  std::vector<std::size_t> contenders;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const double behind = start_of(account["candidates"][i])["nll"].get<double>() - least;
    account["candidates"][i]["behind"] = behind;
    if (behind <= most_behind)
      contenders.push_back(i);
    else
      say(fmt::format("{} is {:.2f} nats behind before training: the time goes to the other",
                      candidates[i].method, behind));
  }

  std::string best;  // the method with the lowest loss so far
  double lowest = std::numeric_limits<double>::infinity();
  std::map<std::string, Checkpoint> trained;  // by method
  for (std::size_t run = 0; run < contenders.size(); ++run) {
    const Candidate& candidate = candidates[contenders[run]];
    Json& entry = account["candidates"][contenders[run]];
    training.optimiser.learning_rate = candidate.learning_rate * step.learning_rate;
    // What is left is shared by the runs still to come, after setting aside the judging that each needs.
    const auto runs = static_cast<double>(contenders.size() - run);
    const double judging = (plan.judge_seconds + plan.speed_seconds) * runs;
    training.max_minutes =
        std::max((options.minutes - clock.minutes() - judging / 60) / runs,
                 options.minutes * least_training_share / static_cast<double>(contenders.size()));
    const TrainResult result =
        train({.student = starts[contenders[run]], .teacher = &original, .text = {{.store = text}}}, training,
              work.run(), /*resume=*/false);
    if (result.interrupted) throw Interrupted();
    entry["training"] = to_json(training);
    entry["curve"] = curve_of(result);
    entry["trained"] = judge.measure(result.model, Judged::speed);
    entry["recovered"] = recovered(before, entry["cut"], entry["trained"]);
    trained.emplace(candidate.method, result.model);
    if (const double loss = entry["trained"]["nll"].get<double>(); loss < lowest) {
      lowest = loss;
      best = candidate.method;
    }
  }
  account["chosen"] = best;
  account["minutes"] = clock.minutes();

  Checkpoint chosen = std::move(trained.extract(best).mapped());
  chosen.provenance.push_back({{"command", "compress"},
                               {"from", options.model.string()},
                               {"target", options.target},
                               {"method", best}});
  save(chosen, trained, account, options);
  return account;
}

}  // namespace fathom
