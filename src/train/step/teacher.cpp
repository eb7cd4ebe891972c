#include "train/step/teacher.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <map>
#include <set>
#include <span>

#include "kernels/aligned.h"
#include "runtime/engine.h"
#include "runtime/lm_head.h"
#include "runtime/model.h"
#include "train/model/model.h"
#include "train/step/micro_batch.h"

namespace fathom {
namespace {

/// Keeps the residual streams after the visits that `streams` has.
class StreamKeeper : public Observer {
 public:
  explicit StreamKeeper(std::map<std::int64_t, std::vector<float>>& streams) : streams_(streams) {}

  void observe(Tap tap, std::int64_t visit, std::int64_t, std::span<const float> values) override {
    if (tap != Tap::visit_output) return;
    const auto found = streams_.find(visit);
    if (found != streams_.end()) found->second.assign(values.begin(), values.end());
  }

 private:
  std::map<std::int64_t, std::vector<float>>& streams_;
};

/// Moves the rows that are learned to the front.
void keep_learned(const std::vector<Sequence>& sequences, std::int64_t width, std::vector<float>& rows) {
  auto from = rows.begin(), to = rows.begin();
  for (const Sequence& sequence : sequences) {
    for (const Token label : sequence.labels) {
      if (label >= 0) to = std::copy(from, from + width, to);
      from += width;
    }
  }
  rows.erase(to, rows.end());
}

class EngineTeacher : public Teacher {
 public:
  EngineTeacher(const Checkpoint& checkpoint, std::int64_t context, bool bf16)
      : engine_(checkpoint,
                {.compute = bf16 ? float_compute(checkpoint) : Compute::f32, .max_context = context}) {}

  void read(const std::vector<Sequence>& sequences, const std::vector<std::int64_t>& visits) override {
    std::vector<Feed> feeds;
    for (const Sequence& sequence : sequences) {
      for (std::size_t i = 0; i < sequence.starts.size(); ++i) {
        const auto rows = document_rows(sequence, i);
        const auto tokens =
            std::span(sequence.inputs)
                .subspan(static_cast<std::size_t>(rows.first), static_cast<std::size_t>(rows.count));
        feeds.push_back({.sequence = engine_.open(), .tokens = tokens, .keep = rows.count});
      }
    }
    streams_.clear();
    for (const std::int64_t visit : visits) streams_[visit];
    StreamKeeper observer(streams_);
    hidden_ = engine_.forward(feeds, visits.empty() ? nullptr : &observer);
    for (const Feed& feed : feeds) engine_.close(feed.sequence);

    const std::int64_t width = engine_.config().hidden_size;
    keep_learned(sequences, width, hidden_);
    for (auto& [visit, rows] : streams_) keep_learned(sequences, width, rows);
  }

  at::Tensor logits(std::int64_t first, std::int64_t rows, bool rounded) override {
    const ModelConfig& config = engine_.config();
    const float* hidden = hidden_.data() + first * config.hidden_size;
    const bool halves = rounded && config.logit_softcap == 0;
    Rows result = {halves ? Compute::bf16 : Compute::f32, config.vocab_size};
    logits_.reserve(static_cast<std::size_t>(rows * result.row_bytes()));
    result.data = logits_.as<std::byte>();
    halves ? engine_.head().uncapped_logits(rows, hidden, result)
           : engine_.head().logits(rows, hidden, result.row<float>(0));
    return at::from_blob(result.data, {rows, result.width}, {result.stride(), 1},
                         halves ? at::kBFloat16 : at::kFloat);
  }

  at::Tensor stream(std::int64_t visit) const override {
    const std::vector<float>& rows = streams_.at(visit);
    const std::int64_t width = engine_.config().hidden_size;
    return at::from_blob(const_cast<float*>(rows.data()), {std::ssize(rows) / width, width}, at::kFloat);
  }

  std::int64_t weight_bytes() const override { return engine_.weight_bytes(); }

 private:
  Engine engine_;
  std::vector<float> hidden_;  ///< of the rows that are learned, as are the streams
  std::map<std::int64_t, std::vector<float>> streams_;
  AlignedBuffer logits_;
};

class ModelTeacher : public Teacher {
 public:
  ModelTeacher(const Checkpoint& checkpoint, bool bf16, Device device)
      : model_(checkpoint, {.bf16 = bf16, .trainable = std::nullopt, .device = device}) {}

  void read(const std::vector<Sequence>& sequences, const std::vector<std::int64_t>& visits) override {
    const at::NoGradGuard no_grad;
    const std::int64_t last = model_.depth() - 1;
    std::set<std::int64_t> wanted(visits.begin(), visits.end());
    wanted.insert(last);
    // Positions are for the draws of layer dropout, which leaves the teacher alone.
    streams_ = forward(model_, MicroBatch(sequences, std::vector<std::int64_t>(sequences.size())), wanted);
    logits_ = head_logits(model_.head(), model_.final_norm(streams_.after(last)),
                          static_cast<float>(model_.config().logit_softcap));
  }

  at::Tensor logits(std::int64_t first, std::int64_t rows, bool) override {
    const at::NoGradGuard no_grad;
    return logits_(first, rows);
  }

  at::Tensor stream(std::int64_t visit) const override { return streams_.after(visit); }

  std::int64_t weight_bytes() const override {
    std::int64_t result = 0;
    for (const auto& [name, parameter] : model_.parameters()) {
      result += static_cast<std::int64_t>(parameter.values.nbytes());
    }
    return result;
  }

 private:
  TrainModel model_;
  Streams streams_;
  TeacherLogits logits_;
};

}  // namespace

std::unique_ptr<Teacher> make_teacher(const Checkpoint& checkpoint, std::int64_t context, bool bf16,
                                      Device device) {
  if (device == Device::cpu) return std::make_unique<EngineTeacher>(checkpoint, context, bf16);
  return std::make_unique<ModelTeacher>(checkpoint, bf16, device);
}

}  // namespace fathom
