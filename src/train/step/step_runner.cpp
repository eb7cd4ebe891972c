#include "train/step/step_runner.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "train/model/layer_dropout.h"
#include "train/ops/head_loss.h"
#include "train/ops/hidden_loss.h"
#include "train/step/micro_batch.h"

namespace fathom {
namespace {

/// This rank's part of `count` sequences.
RowRange part_of(std::int64_t count, const Ranks& ranks) {
  const std::int64_t first = count * ranks.rank() / ranks.count();
  return {first, count * (ranks.rank() + 1) / ranks.count() - first};
}

}  // namespace

/// Where the way back begins.
class Roots {
 public:
  void add(const at::Tensor& root, const at::Tensor& gradient) {
    if (!root.requires_grad()) return;  // nothing before it is trained
    roots_.push_back(root);
    gradients_.push_back(gradient);
  }
  void backward() const {
    if (!roots_.empty()) torch::autograd::backward(roots_, gradients_);
  }

 private:
  std::vector<at::Tensor> roots_, gradients_;
};

namespace {

void add(const StepLoss& part, StepLoss& sum) {
  sum.cross_entropy += part.cross_entropy;
  sum.divergence += part.divergence;
  sum.hidden += part.hidden;
  sum.total += part.total;
  for (std::size_t i = 0; i < part.exits.size(); ++i) {
    sum.exits[i].ce += part.exits[i].ce;
    sum.exits[i].kl += part.exits[i].kl;
  }
}

}  // namespace

StepRunner::StepRunner(TrainModel& model, Packing& packing, std::unique_ptr<Teacher>& teacher,
                       std::optional<CachedTeacher>& cached_teacher, Buckets& buckets, const Ranks& ranks,
                       const TrainOptions& options)
    : model_(model),
      packing_(packing),
      teacher_(teacher),
      cached_teacher_(cached_teacher),
      buckets_(buckets),
      ranks_(ranks),
      options_(options),
      sequences_(std::max<std::int64_t>(1, options.tokens_per_step / options.context)) {}

StepLoss StepRunner::run(std::int64_t step, std::int64_t steps) {
  return run(step, steps, part_of(sequences_, ranks_));
}

// Of 0 steps all are behind: the exits of every curriculum, the highest rate of dropout.
StepLoss StepRunner::run_part(std::int64_t sequences) {
  return run(0, 0, {0, std::min(sequences, sequences_)});
}

std::string StepRunner::describe(std::int64_t position) {
  const std::int64_t end = (position / sequences_ + 1) * sequences_;
  std::string result;
  for (std::int64_t i = position; i < std::min(position + options_.micro_batch, end); ++i) {
    result += (result.empty() ? "" : "; ") + packing_.describe(i);
  }
  return result;
}

StepLoss StepRunner::run(std::int64_t step, std::int64_t steps, RowRange own) {
  const std::int64_t first = step * sequences_ + own.first;
  Step common{
      .number = step, .of = steps, .exits = exit_weights(options_.exits, model_.depth(), step, steps)};
  std::vector<MicroBatch> batches;
  std::int64_t learned = 0;
  for (std::int64_t done = 0; done < own.count; done += options_.micro_batch) {
    batches.emplace_back(packing_, first + done, std::min(options_.micro_batch, own.count - done));
    learned += std::ssize(batches.back().rows);
  }
  for (const auto& rank : ranks_.gather({static_cast<double>(learned)}, "the begin of a step")) {
    common.learned += static_cast<std::int64_t>(rank[0]);
  }
  StepLoss mean;
  for (const ExitWeight& exit : std::span(common.exits).first(common.exits.size() - 1)) {
    mean.exits.push_back({.visit = exit.visit, .weight = exit.weight});
  }
  double highest = -1;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    if (i + 1 == batches.size()) buckets_.begin();
    if (batches[i].rows.empty()) continue;
    const StepLoss part = run(common, batches[i]);
    add(part, mean);
    const double loss =
        part.total * static_cast<double>(common.learned) / static_cast<double>(batches[i].rows.size());
    if (std::isfinite(highest) && !(loss <= highest)) {
      highest = loss;
      mean.worst = first + static_cast<std::int64_t>(i) * options_.micro_batch;
    }
  }
  model_.wait_for_update();  // of which a step without anything to learn has seen nothing
  buckets_.finish();
  return over_ranks(mean, highest);
}

/// Every rank adds up in the same order, so that all judge the same loss.
StepLoss StepRunner::over_ranks(const StepLoss& own, double highest) const {
  std::vector<double> numbers = {own.cross_entropy, own.divergence, own.hidden,
                                 own.total,         highest,        static_cast<double>(own.worst)};
  const std::size_t exits = numbers.size();
  for (const ExitLoss& exit : own.exits) numbers.insert(numbers.end(), {exit.ce, exit.kl});
  StepLoss sum{.exits = own.exits};
  for (ExitLoss& exit : sum.exits) exit.ce = exit.kl = 0;
  double most = -1;
  for (const auto& rank : ranks_.gather(numbers, "the losses of a step")) {
    StepLoss part{.cross_entropy = rank[0], .divergence = rank[1], .hidden = rank[2], .total = rank[3]};
    for (std::size_t i = exits; i < rank.size(); i += 2)
      part.exits.push_back({.ce = rank[i], .kl = rank[i + 1]});
    add(part, sum);
    if (std::isfinite(most) && !(rank[4] <= most)) {
      most = rank[4];
      sum.worst = static_cast<std::int64_t>(rank[5]);
    }
  }
  return sum;
}

/// Gives the teacher the micro-batch where something is learned from it.
TeacherLogits StepRunner::read_teacher(const MicroBatch& batch) {
  if (!teacher_) return {};
  std::vector<std::int64_t> visits;
  for (const HiddenPair& pair : options_.hidden.pairs) visits.push_back(pair.teacher);
  teacher_->read(batch.sequences, visits);
  // The student's own are in bfloat16, too.
  return [this](std::int64_t first, std::int64_t rows) {
    return teacher_->logits(first, rows, /*rounded=*/options_.bf16);
  };
}

StepLoss StepRunner::run(const Step& step, const MicroBatch& batch) {
  const TeacherLogits teacher = read_teacher(batch);
  std::set<std::int64_t> visits;
  for (const ExitWeight& exit : step.exits) visits.insert(exit.visit);
  for (const HiddenPair& pair : options_.hidden.pairs) visits.insert(pair.student);
  const Streams streams = forward(model_, batch, visits, [&](std::span<const std::int64_t> positions) {
    return kept_sequences(options_.layer_dropout, options_.seed, model_.depth(), step.number, step.of,
                          positions);
  });
  StepLoss loss;
  Roots roots;
  learn_heads(step, batch, streams, teacher, roots, loss);
  learn_hidden(step, streams, roots, loss);
  roots.backward();
  return loss;
}

/// The last visit's losses, and the other exits'.
void StepRunner::learn_heads(const Step& step, const MicroBatch& batch, const Streams& streams,
                             const TeacherLogits& teacher, Roots& roots, StepLoss& loss) {
  const auto learned = static_cast<double>(step.learned);
  const auto learn = [&](const ExitWeight& exit, const at::Tensor& hidden, LossWeights weights,
                         const TeacherLogits& target, const TopTokens* top) {
    weights.scale = static_cast<float>(exit.weight / learned);
    at::Tensor gradient;
    const auto top_loss = [&](std::int64_t first, const at::Tensor& logits) {
      return model_.head().top_k_loss(weights, logits, *top, first,
                                      std::span(batch.labels).subspan(static_cast<std::size_t>(first)));
    };
    const LossSums sums =
        top != nullptr ? head_loss(hidden.detach(), model_.head(), top_loss, gradient)
                       : head_loss(hidden.detach(), model_.head(), batch.labels, weights, target, gradient);
    roots.add(hidden, gradient);
    const ExitLoss own{exit.visit, exit.weight, sums.cross_entropy / learned, sums.divergence / learned};
    loss.total += own.weight * (weights.cross_entropy * own.ce + weights.divergence * own.kl);
    return own;
  };
  LossWeights weights{.cross_entropy = static_cast<float>(options_.loss.cross_entropy),
                      .divergence = static_cast<float>(options_.loss.divergence),
                      .kind = options_.loss.kind,
                      .temperature = static_cast<float>(options_.loss.temperature),
                      .softcap = static_cast<float>(model_.config().logit_softcap)};
  const ExitWeight& last = step.exits.back();
  const TopTokens top = cached_teacher_ ? cached_teacher_->top(batch.sequences) : TopTokens();
  const at::Tensor hidden = model_.final_norm(streams.after(last.visit));
  const ExitLoss own = learn(last, hidden, weights, teacher, cached_teacher_ ? &top : nullptr);
  loss.cross_entropy = own.ce;
  loss.divergence = own.kl;

  weights.cross_entropy = static_cast<float>(options_.exits.cross_entropy);
  weights.divergence = static_cast<float>(options_.exits.divergence);
  const TeacherLogits self = head_logits(model_.head(), hidden.detach(), weights.softcap);
  for (const ExitWeight& exit : std::span(step.exits).first(step.exits.size() - 1)) {
    loss.exits.push_back(learn(exit, model_.final_norm(streams.after(exit.visit)), weights, self, nullptr));
  }
}

void StepRunner::learn_hidden(const Step& step, const Streams& streams, Roots& roots, StepLoss& loss) {
  const HiddenLossOptions& options = options_.hidden;
  const double share = 1 / static_cast<double>(step.learned * std::ssize(options.pairs));
  for (const HiddenPair& pair : options.pairs) {
    const at::Tensor& stream = streams.after(pair.student);
    at::Tensor gradient;
    loss.hidden += share * hidden_loss(stream.detach(), teacher_->stream(pair.teacher),
                                       options.weight * share, gradient);
    roots.add(stream, gradient);
  }
  loss.total += options.weight * loss.hidden;
}

double evaluate(TrainModel& model, Packing& text, std::int64_t micro_batch, const Ranks& ranks) {
  const at::NoGradGuard no_grad;
  Parameter weight;  // one that gathers no gradient
  weight.values = model.head().weight().values.detach();
  const auto head = model.operations().head(&weight, /*spares_memory=*/false);
  const LossWeights weights{.softcap = static_cast<float>(model.config().logit_softcap)};
  double loss = 0, learned = 0;
  const RowRange own = part_of(text.sequences(), ranks);
  for (std::int64_t done = 0; done < own.count; done += micro_batch) {
    const MicroBatch batch(text, own.first + done, std::min(micro_batch, own.count - done));
    if (batch.rows.empty()) continue;
    const at::Tensor hidden = model.final_norm(forward(model, batch, {model.depth() - 1}).rows.front());
    at::Tensor gradient;
    loss += head_loss(hidden, *head, batch.labels, weights, {}, gradient).cross_entropy;
    learned += static_cast<double>(batch.rows.size());
  }
  double all_loss = 0, all_learned = 0;
  for (const auto& rank : ranks.gather({loss, learned}, "an evaluation")) {
    all_loss += rank[0];
    all_learned += rank[1];
  }
  return all_loss / std::max(all_learned, 1.0);
}

}  // namespace fathom
