#include "train/step_runner.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "train/head_loss.h"

namespace fathom {
namespace {

at::Tensor ids_of(std::span<const Token> tokens, std::int64_t sequences) {
  at::Tensor ids = at::empty({sequences, std::ssize(tokens) / sequences}, at::kLong);
  std::ranges::copy(tokens, ids.data_ptr<std::int64_t>());
  return ids;
}

/// Hidden states [rows, width] of all sequences laid end to end. Where attention stays within documents each
/// is run by itself.
at::Tensor forward(TrainModel& model, const std::vector<Sequence>& sequences) {
  const bool whole = std::ranges::all_of(sequences, [](const Sequence& s) { return s.starts.size() == 1; });
  if (whole) {
    std::vector<Token> tokens;
    for (const Sequence& s : sequences) tokens.insert(tokens.end(), s.inputs.begin(), s.inputs.end());
    return model.forward(ids_of(tokens, std::ssize(sequences)));
  }
  std::vector<at::Tensor> parts;
  for (const Sequence& sequence : sequences) {
    for (std::size_t i = 0; i < sequence.starts.size(); ++i) {
      const auto [first, count] = document_rows(sequence, i);
      const auto tokens = std::span(sequence.inputs)
                              .subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
      parts.push_back(model.forward(ids_of(tokens, 1)));
    }
  }
  return at::cat(parts);
}

at::Tensor select(const at::Tensor& hidden, const std::vector<std::int64_t>& rows) {
  if (std::ssize(rows) == hidden.size(0)) return hidden;
  return hidden.index_select(0, at::tensor(at::ArrayRef<std::int64_t>(rows), at::kLong));
}

/// This rank's part of `count` sequences.
RowRange part_of(std::int64_t count, const Ranks& ranks) {
  const std::int64_t first = count * ranks.rank() / ranks.count();
  return {first, count * (ranks.rank() + 1) / ranks.count() - first};
}

}  // namespace

struct MicroBatch {
  std::vector<Sequence> sequences;
  std::vector<std::int32_t> labels;  ///< of the learned rows
  std::vector<std::int64_t> rows;    ///< which those are, of the sequences laid end to end

  MicroBatch(Packing& packing, std::int64_t first, std::int64_t count) {
    std::int64_t row = 0;
    for (std::int64_t i = first; i < first + count; ++i) {
      sequences.push_back(packing.at(i));
      for (const Token label : sequences.back().labels) {
        if (label >= 0) {
          labels.push_back(label);
          rows.push_back(row);
        }
        ++row;
      }
    }
  }
};

StepRunner::StepRunner(TrainModel& model, Packing& packing, std::optional<Teacher>& teacher,
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

StepLoss StepRunner::run(std::int64_t step) {
  const RowRange own = part_of(sequences_, ranks_);
  return run(step * sequences_ + own.first, own.count);
}

StepLoss StepRunner::run_part(std::int64_t sequences) { return run(0, std::min(sequences, sequences_)); }

std::string StepRunner::describe(std::int64_t position) {
  const std::int64_t end = (position / sequences_ + 1) * sequences_;
  std::string result;
  for (std::int64_t i = position; i < std::min(position + options_.micro_batch, end); ++i) {
    result += (result.empty() ? "" : "; ") + packing_.describe(i);
  }
  return result;
}

StepLoss StepRunner::run(std::int64_t first, std::int64_t sequences) {
  std::vector<MicroBatch> batches;
  std::int64_t learned = 0;
  for (std::int64_t done = 0; done < sequences; done += options_.micro_batch) {
    batches.emplace_back(packing_, first + done, std::min(options_.micro_batch, sequences - done));
    learned += std::ssize(batches.back().rows);
  }
  double all_learned = 0;
  for (const auto& rank : ranks_.gather({static_cast<double>(learned)}, "the begin of a step")) {
    all_learned += rank[0];
  }
  learned = static_cast<std::int64_t>(all_learned);
  StepLoss mean;
  double highest = -1;
  for (std::size_t i = 0; i < batches.size(); ++i) {
    if (i + 1 == batches.size()) buckets_.begin();
    if (batches[i].rows.empty()) continue;
    const LossSums sums = run(batches[i], learned);
    mean.cross_entropy += sums.cross_entropy / static_cast<double>(learned);
    mean.divergence += sums.divergence / static_cast<double>(learned);
    const double own =
        (options_.loss.cross_entropy * sums.cross_entropy + options_.loss.divergence * sums.divergence) /
        static_cast<double>(batches[i].rows.size());
    if (std::isfinite(highest) && !(own <= highest)) {
      highest = own;
      mean.worst = first + static_cast<std::int64_t>(i) * options_.micro_batch;
    }
  }
  buckets_.finish();
  return over_ranks(mean, highest);
}

/// Every rank adds up in the same order, so that all judge the same loss.
StepLoss StepRunner::over_ranks(const StepLoss& own, double highest) const {
  StepLoss sum;
  double most = -1;
  for (const auto& rank :
       ranks_.gather({own.cross_entropy, own.divergence, highest, static_cast<double>(own.worst)},
                     "the losses of a step")) {
    sum.cross_entropy += rank[0];
    sum.divergence += rank[1];
    if (std::isfinite(most) && !(rank[2] <= most)) {
      most = rank[2];
      sum.worst = static_cast<std::int64_t>(rank[3]);
    }
  }
  return sum;
}

LossSums StepRunner::run(const MicroBatch& batch, std::int64_t learned) {
  TeacherLogits teacher_logits;
  TopTokens top;
  if (cached_teacher_) {
    top = cached_teacher_->top(batch.sequences);
  } else if (options_.loss.divergence > 0) {
    teacher_->read(batch.sequences);
    teacher_logits = [this](std::int64_t first, std::int64_t rows, float* logits) {
      teacher_->logits(first, rows, logits);
    };
  }
  const LossWeights weights{.cross_entropy = static_cast<float>(options_.loss.cross_entropy),
                            .divergence = static_cast<float>(options_.loss.divergence),
                            .temperature = static_cast<float>(options_.loss.temperature),
                            .softcap = static_cast<float>(model_.config().logit_softcap),
                            .scale = 1 / static_cast<float>(learned)};
  const at::Tensor hidden = select(forward(model_, batch.sequences), batch.rows);
  at::Tensor gradient;
  const auto top_loss = [&](std::int64_t first, const at::Tensor& logits) {
    return top_k_loss(logits.size(0), logits.size(1), weights, rows_of(logits), logits.stride(0), top, first,
                      std::span(batch.labels).subspan(static_cast<std::size_t>(first)));
  };
  const LossSums sums = cached_teacher_ ? head_loss(hidden.detach(), model_.head(), top_loss, gradient)
                                        : head_loss(hidden.detach(), model_.head(), batch.labels, weights,
                                                    teacher_logits, gradient);
  hidden.backward(gradient);
  return sums;
}

double evaluate(TrainModel& model, Packing& text, std::int64_t micro_batch, const Ranks& ranks) {
  const at::NoGradGuard no_grad;
  Parameter weight;  // one that gathers no gradient
  weight.values = model.head().weight().values.detach();
  Head head(&weight);
  const LossWeights weights{.softcap = static_cast<float>(model.config().logit_softcap)};
  double loss = 0, learned = 0;
  const RowRange own = part_of(text.sequences(), ranks);
  for (std::int64_t done = 0; done < own.count; done += micro_batch) {
    const MicroBatch batch(text, own.first + done, std::min(micro_batch, own.count - done));
    if (batch.rows.empty()) continue;
    const at::Tensor hidden = select(forward(model, batch.sequences), batch.rows);
    at::Tensor gradient;
    loss += head_loss(hidden, head, batch.labels, weights, {}, gradient).cross_entropy;
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
