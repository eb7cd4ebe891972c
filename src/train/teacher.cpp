#include "train/teacher.h"

namespace fathom {

Teacher::Teacher(const Checkpoint& checkpoint, std::int64_t context, bool bf16)
    : engine_(checkpoint,
              {.compute = bf16 ? float_compute(checkpoint) : Compute::f32, .max_context = context}) {}

void Teacher::read(const std::vector<Sequence>& sequences) {
  std::vector<Feed> feeds;
  for (const Sequence& sequence : sequences) {
    const auto tokens = static_cast<std::int64_t>(sequence.inputs.size());
    feeds.push_back({.sequence = engine_.open(), .tokens = sequence.inputs, .keep = tokens});
  }
  hidden_ = engine_.forward(feeds);
  for (const Feed& feed : feeds) engine_.close(feed.sequence);
}

void Teacher::logits(std::int64_t first, std::int64_t rows, float* logits) const {
  engine_.head(rows, hidden_.data() + first * engine_.config().hidden_size, logits);
}

}  // namespace fathom
