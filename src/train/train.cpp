#include "train/train.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <optional>

#include "base/error.h"
#include "base/fingerprint.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "train/run/options.h"
#include "train/run/run_folder.h"
#include "train/run/session.h"
#include "train/step/guard.h"
#include "train/step/schedule.h"

namespace fathom {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// What makes a run this run: when to stop for time, how often to save and to evaluate, what to do about bad
/// steps, where it computes and how the work is shared out may change.
Json identity(const Session& session, const Checkpoint* teacher) {
  Json chosen = to_json(session.options);
  for (const char* key : {"checkpoint_every", "checkpoint_minutes", "max_minutes", "guard", "evaluate_every",
                          "shard_optimiser", "gradient_checkpointing", "device"})
    chosen.erase(key);
  return {{"options", chosen},
          {"student", digest(session.start)},
          {"text", session.packing.digest()},
          {"teacher", teacher != nullptr ? digest(*teacher) : "none"}};
}

/// Before hours of work: the model, and a checkpoint if some are kept, must have room beside each other.
void check_room(const Session& session, const std::filesystem::path& folder) {
  const bool keeps = session.options.checkpoint_every > 0 || session.options.checkpoint_minutes > 0;
  const std::int64_t checkpoint = keeps ? session.checkpoint_bytes() : 0,
                     needed = session.least_model_bytes() + checkpoint;
  const auto room = static_cast<std::int64_t>(std::filesystem::space(folder).available);
  if (needed <= room) return;
  fail("{}: the trained model{} takes {} at least, {} are free: make room, {}choose another place for --out",
       folder.string(), keeps ? " with a checkpoint" : "", format_bytes(needed), format_bytes(room),
       keeps ? "keep no checkpoints (--checkpoint-every 0 --checkpoint-minutes 0), or " : "or ");
}

class Run {
 public:
  Run(const TrainInputs& inputs, const TrainOptions& options, const std::filesystem::path& work, bool resume,
      const Ranks& ranks)
      : inputs_(inputs),
        options_(options),
        ranks_(ranks),
        session_(inputs, options, ranks),
        identity_(identity(session_, inputs.teacher)),
        folder_(work, identity_) {
    if (inputs.held_out.size() > 0) {
      held_out_.emplace(std::vector<MixedSource>{{.store = inputs.held_out}},
                        packing_options(inputs.student, options));
      if (ranks.is_first()) note_left_out(*held_out_, options.context);
    }
    state_.total_steps = session_.steps();
    const bool resumed = resume && folder_.resume(state_, [&](const TensorMap& tensors, const RunState& found,
                                                              const std::string& file) {
      session_.optimiser.restore(tensors, found.updates, file);
    });
    check_same_run();
    if (!ranks_.is_first()) return;
    check_room(session_, work);
    if (resumed) {
      folder_.cut_back(state_.step);
    } else {
      folder_.clear();
    }
  }

  TrainResult run() {
    const std::int64_t first_step = state_.step, tokens = session_.runner.tokens();
    Progress progress("training", (state_.total_steps - first_step) * tokens, "tok");
    double later_seconds = 0;  // of this process's steps after its first, which is slow: all memory is new
    while (!ended() && !ranks_.any(interrupted(), "the end of a step")) {
      const TrainStep step = do_step();
      if (ranks_.is_first()) folder_.append(step);

      const std::int64_t later_steps = state_.step - first_step - 1;
      if (later_steps > 0) later_seconds += step.seconds;
      const double pace = later_steps > 0 ? later_seconds / static_cast<double>(later_steps) : step.seconds;
      state_.total_steps =
          steps_in_time(options_, state_.step, pace, state_.seconds, state_.total_steps, session_.steps());
      // Rank 0's clock counts.
      state_.total_steps = static_cast<std::int64_t>(
          ranks_.of_first(static_cast<double>(state_.total_steps), "the end of a step"));
      progress.set_total((state_.total_steps - first_step) * tokens);
      progress.advance(tokens, fmt::format("loss {:.3f}", step.loss));
      // Before the checkpoint, so that a run which goes on from it neither repeats nor lacks an evaluation.
      if (held_out_ && (ended() || due(options_.evaluate_every))) evaluate_now();
      if (due(options_.checkpoint_every) || is_time_to_save()) save();
    }
    progress.finish();
    if (!ended()) save();
    session_.model.drop_gradients();
    return {.model = session_.trained(), .steps = folder_.steps(), .interrupted = !ended()};
  }

 private:
  bool ended() const { return state_.step >= state_.total_steps; }
  bool due(std::int64_t every) const { return every > 0 && state_.step % every == 0; }
  /// By rank 0's clock.
  bool is_time_to_save() const {
    if (options_.checkpoint_minutes == 0) return false;
    const bool own = seconds_since(saved_) >= options_.checkpoint_minutes * 60;
    return ranks_.of_first(own ? 1 : 0, "the end of a step") != 0;
  }
  void save() {
    const auto tensors = session_.optimiser.state();
    if (ranks_.is_first()) folder_.save(state_, tensors);
    saved_ = Clock::now();
  }

  /// Throws Error if the ranks do not train the same, from the same step on.
  void check_same_run() {
    Fingerprint print;
    print.add(identity_.dump());
    print.add(name_of(devices, session_.device));  // of one kind: they sum on it together
    // 13 hexadecimal digits are 52 bits, which a double holds.
    const auto own = static_cast<double>(std::stoll(print.hex().substr(0, 13), nullptr, 16));
    const auto all =
        ranks_.gather({static_cast<double>(state_.step), own}, "the other ranks to load the model");
    for (std::size_t rank = 1; rank < all.size(); ++rank) {
      if (all[rank][1] != all[0][1]) {
        fail("{}: rank {} was given another model, text, option or device than rank 0",
             inputs_.student.source.string(), rank);
      }
      if (all[rank][0] != all[0][0]) {
        fail(
            "{}: rank {} found a checkpoint of step {}, rank 0 of step {}: the folder must be one that all "
            "ranks share",
            folder_.best().parent_path().string(), rank, all[rank][0], all[0][0]);
      }
    }
  }

  TrainStep do_step() {
    const auto begin = Clock::now();
    const StepLoss mean = session_.runner.run(state_.step, state_.total_steps);
    TrainStep step{.step = state_.step + 1, .tokens = (state_.step + 1) * session_.runner.tokens()};
    step.ce = mean.cross_entropy;
    step.kl = mean.divergence;
    step.hidden = mean.hidden;
    step.exits = mean.exits;
    step.loss = mean.total;
    step.learning_rate = learning_rate(options_, state_.step, state_.total_steps);
    // Rank 0's: on machines of different kinds the last bit may differ.
    step.gradient_norm = ranks_.of_first(session_.optimiser.gradient_norm(), "the gradient's norm");
    const auto verdict = judge(step, state_.history, options_.guard);
    if (verdict) act(*verdict, step, mean.worst);
    step.skipped = verdict && verdict->action == BadStep::skip;
    if (step.skipped) {
      session_.optimiser.discard();
      ++state_.history.skipped;
    } else {
      session_.optimiser.begin_step(step.learning_rate, step.gradient_norm);
      ++state_.updates;
      state_.history.skipped = 0;
      state_.history.add(step.loss);
    }
    step.seconds = seconds_since(begin);
    state_.step = step.step;
    state_.seconds += step.seconds;
    return step;
  }

  /// Says what is wrong and with which text; ends the run where that is asked for.
  void act(const Verdict& verdict, const TrainStep& step, std::int64_t worst) {
    const std::string what = fmt::format("{}: at step {} {}; worst was {}", inputs_.student.source.string(),
                                         step.step, verdict.what, session_.runner.describe(worst));
    if (verdict.action != BadStep::stop) {
      if (!ranks_.is_first()) return;
      fmt::print(stderr, "fathom: {}{}\n", what, verdict.action == BadStep::skip ? ": skipped" : "");
      return;
    }
    if (state_.step > 0) save();
    fail(
        "{}: look at this text, skip such steps (--on-nan skip, --on-spike skip), lower the learning rate "
        "(now {}) or see whether the model is sound",
        what, step.learning_rate);
  }

  void evaluate_now() {
    const auto begin = Clock::now();
    const double loss = evaluate(session_.model, *held_out_, options_.micro_batch, ranks_);
    if (!std::isfinite(loss)) {
      fail("{}: after step {} the loss on the held-out text is {}", inputs_.student.source.string(),
           state_.step, loss);
    }
    Json line = {{"step", state_.step}, {"loss", loss}, {"perplexity", std::exp(loss)}};
    const bool best = state_.best_step == 0 || loss < state_.best_loss;
    if (ranks_.is_first() && (best || inputs_.sample)) {
      const Checkpoint model = session_.trained();
      if (inputs_.sample) line["samples"] = inputs_.sample(model);
      if (best) save_checkpoint(model, folder_.best(), /*overwrite=*/true);
    }
    if (best) {
      state_.best_loss = loss;
      state_.best_step = state_.step;
    }
    line["seconds"] = seconds_since(begin);
    if (ranks_.is_first()) folder_.append_evaluation(line);
  }

  const TrainInputs& inputs_;
  const TrainOptions& options_;
  const Ranks& ranks_;
  Session session_;
  Json identity_;
  RunFolder folder_;
  std::optional<Packing> held_out_;
  RunState state_;
  Clock::time_point saved_ = Clock::now();
};

}  // namespace

TrainResult train(const TrainInputs& inputs, const TrainOptions& options, const std::filesystem::path& work,
                  bool resume, const Ranks& ranks) {
  return Run(inputs, options, work, resume, ranks).run();
}

}  // namespace fathom
