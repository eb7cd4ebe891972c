#include "compress/compress.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/threads.h"
#include "compress/candidates.h"
#include "compress/data.h"
#include "depth/profile.h"
#include "eval/perplexity.h"
#include "eval/speed.h"
#include "model/checkpoint.h"
#include "model/tokenizer.h"
#include "runtime/engine.h"
#include "runtime/generate.h"
#include "train/run_folder.h"
#include "train/train.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t eval_windows =
    64;  // 64 x 512 tokens: the standard error of the mean loss is about 0.02
constexpr std::int64_t profile_tokens = 16'384;
constexpr std::int64_t sample_tokens = 48;
constexpr double least_training_minutes = 0.05;  // a job ends with a model, if hardly a trained one
const std::vector<std::string> sample_prompts = {"The capital of France is", "Water boils when",
                                                 "Once upon a time, there was a"};

class Clock {
 public:
  double minutes() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count() / 60;
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void say(const std::string& text) { fmt::print(stderr, "{}\n", text); }

/// Everything that is compared before and after: the figures of one model.
class Judge {
 public:
  /// `compute` is the same for all of them, so that speeds and losses compare.
  Judge(const Tokenizer& tokenizer, std::span<const Token> text, std::int64_t context, Compute compute)
      : tokenizer_(tokenizer), text_(text), context_(context), compute_(compute) {}

  Json measure(const Checkpoint& model) const {
    Engine engine(model, {.compute = compute_});
    const ParameterCount count = count_parameters(model);
    const Perplexity quality =
        perplexity(engine, text_, context_, tokenizer_.bos().value_or(-1), eval_windows);
    const Speed speed = measure_speed(engine);
    Json samples = Json::array();
    for (const auto& prompt : sample_prompts)
      samples.push_back({{"prompt", prompt}, {"text", continued(engine, prompt)}});
    return {{"plan", model.plan.describe()},
            {"parameters", count.embedding + count.non_embedding()},
            {"non_embedding", count.non_embedding()},
            {"bytes", count.bytes},
            {"bf16_bytes", 2 * (count.embedding + count.non_embedding())},
            {"nll", quality.nll},
            {"tokens", quality.tokens},
            {"perplexity", quality.perplexity()},
            {"speed", to_json(speed)},
            {"samples", samples}};
  }

 private:
  std::string continued(Engine& engine, const std::string& prompt) const {
    const int sequence = engine.open();
    const auto ids = tokenizer_.encode(prompt);
    const Generated generated = generate(engine, tokenizer_, sequence, ids,
                                         {.max_tokens = sample_tokens, .stop = {}, .sampler = {}}, nullptr);
    engine.close(sequence);
    check_interrupt();
    return generated.text;
  }

  const Tokenizer& tokenizer_;
  std::span<const Token> text_;
  std::int64_t context_;
  Compute compute_;
};

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

}  // namespace

Json compress(const CompressOptions& options) {
  check(options);
  const Clock clock;
  const Checkpoint original = load_checkpoint(options.model);
  const Tokenizer tokenizer = load_tokenizer(options.model);
  const std::int64_t context = std::min<std::int64_t>(512, original.config.max_positions);
  const Token bos = tokenizer.bos().value_or(-1);
  if (options.method != "prune")
    recursion_within(original, options.target);  // an impossible target shows before any work
  const WorkFolder work(options.out);
  check_save_target(options.out,
                    options.overwrite);  // again: a job that ended meanwhile may have saved there

  say(fmt::format("{}: {}, {} parameters without embeddings; at most {:.0f}% of them are to stay",
                  options.model.string(), original.plan.describe(),
                  format_count(count_parameters(original).non_embedding()), options.target * 100));
  const Data data = gather_data(original, tokenizer, options, context, work.path());
  const TokenStore text = store_documents(data.train, data.separator, data.account["train"]);
  const Judge judge(tokenizer, data.eval, context, float_compute(original));
  double judging_minutes = 0;  // of the latest measurement: a machine's other users come and go
  const auto judged = [&](const Checkpoint& model) {
    const double start = clock.minutes();
    Json figures = judge.measure(model);
    judging_minutes = clock.minutes() - start;
    return figures;
  };
  const Json before = judged(original);
  const Profile profile = profile_depth(original, data.calibration,
                                        {.context = context, .max_tokens = profile_tokens, .bos = bos});

  std::vector<Candidate> candidates;
  if (options.method != "recur") candidates.push_back(prune_to(original, profile, options.target));
  if (options.method != "prune")
    candidates.push_back(recur_to(original, data.calibration, options.target, bos, options.seed));

  Json account = {
      {"version", FATHOM_VERSION},
      {"options",
       {{"model", options.model.string()},
        {"target", options.target},
        {"method", options.method},
        {"minutes", options.minutes},
        {"seed", options.seed}}},
      {"machine", {{"threads", thread_count()}, {"backend", Engine(original, {}).backend().describe()}}},
      {"data", data.account},
      {"profile", to_json(profile)},
      {"before", before},
      {"candidates", Json::array()}};
  std::size_t best = 0;
  std::optional<Checkpoint> best_model;
  std::vector<Checkpoint> trained_models;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& candidate = candidates[i];
    say(fmt::format("{}: {}", candidate.method, candidate.what));
    const Json cut = judged(candidate.cut);
    TrainOptions training;
    training.loss.cross_entropy = 0;
    training.loss.divergence = 1;
    training.context = context;
    training.optimiser.learning_rate = candidate.learning_rate;
    training.seed = options.seed;
    training.bos = bos;
    training.device = Device::automatic;
    // What is left is shared by the runs still to come, after setting aside the judging that each needs.
    const auto runs = static_cast<double>(candidates.size() - i);
    training.max_minutes = (options.minutes - clock.minutes() - judging_minutes * (2 * runs - 1)) / runs;
    if (training.max_minutes < least_training_minutes) {
      training.max_minutes = least_training_minutes;
      say(fmt::format("measuring and restructuring took {} of --minutes {}: training is cut to {}",
                      format_duration(clock.minutes() * 60), options.minutes,
                      format_duration(least_training_minutes * 60)));
    }
    training.tokens = std::int64_t{1} << 40;
    const TrainResult result = train(
        {.student = candidate.cut, .teacher = &original, .text = {{.store = text}}}, training, work.run(),
        /*resume=*/false);
    if (result.interrupted) throw Interrupted();
    const Json after = judged(result.model);
    account["candidates"].push_back({{"method", candidate.method},
                                     {"what", candidate.what},
                                     {"why", candidate.why},
                                     {"training", to_json(training)},
                                     {"curve", curve_of(result)},
                                     {"cut", cut},
                                     {"trained", after},
                                     {"recovered", recovered(before, cut, after)}});
    trained_models.push_back(result.model);
    if (after["nll"].get<double>() < account["candidates"][best]["trained"]["nll"].get<double>()) best = i;
  }
  account["chosen"] = account["candidates"][best]["method"];
  account["minutes"] = clock.minutes();

  Checkpoint& chosen = trained_models[best];
  chosen.provenance.push_back({{"command", "compress"},
                               {"from", options.model.string()},
                               {"target", options.target},
                               {"method", account["chosen"]}});
  save_checkpoint(chosen, options.out, options.overwrite);
  for (std::size_t i = 0; i < trained_models.size(); ++i) {
    const fs::path runner_up = options.out / ("runner-up-" + candidates[i].method);
    fs::remove_all(runner_up);  // an earlier job's
    if (i != best) save_checkpoint(trained_models[i], runner_up);
  }
  write_file(options.out / "account.json",
             account.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  write_file(options.out / "report.html", account_report(account));
  return account;
}

}  // namespace fathom
