#include "train/teacher.h"

#include <algorithm>

namespace fathom {
namespace {

/// Keeps the residual streams after the visits that `streams` has.
class Streams : public Observer {
 public:
  explicit Streams(std::map<std::int64_t, std::vector<float>>& streams) : streams_(streams) {}

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

}  // namespace

Teacher::Teacher(const Checkpoint& checkpoint, std::int64_t context, bool bf16)
    : engine_(checkpoint,
              {.compute = bf16 ? float_compute(checkpoint) : Compute::f32, .max_context = context}) {}

void Teacher::read(const std::vector<Sequence>& sequences, const std::vector<std::int64_t>& visits) {
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
  Streams observer(streams_);
  hidden_ = engine_.forward(feeds, visits.empty() ? nullptr : &observer);
  for (const Feed& feed : feeds) engine_.close(feed.sequence);

  const std::int64_t width = engine_.config().hidden_size;
  keep_learned(sequences, width, hidden_);
  for (auto& [visit, rows] : streams_) keep_learned(sequences, width, rows);
}

void Teacher::logits(std::int64_t first, std::int64_t rows, float* logits) const {
  engine_.head(rows, hidden_.data() + first * engine_.config().hidden_size, logits);
}

}  // namespace fathom
