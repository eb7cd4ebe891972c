#include "train/teacher.h"

#include <algorithm>

namespace fathom {

Teacher::Teacher(const Checkpoint& checkpoint, std::int64_t context, bool bf16)
    : engine_(checkpoint,
              {.compute = bf16 ? float_compute(checkpoint) : Compute::f32, .max_context = context}) {}

void Teacher::read(const std::vector<Sequence>& sequences) {
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
  hidden_ = engine_.forward(feeds);
  for (const Feed& feed : feeds) engine_.close(feed.sequence);

  const std::int64_t width = engine_.config().hidden_size;
  auto from = hidden_.begin(), to = hidden_.begin();
  for (const Sequence& sequence : sequences) {
    for (const Token label : sequence.labels) {
      if (label >= 0) to = std::copy(from, from + width, to);
      from += width;
    }
  }
}

void Teacher::logits(std::int64_t first, std::int64_t rows, float* logits) const {
  engine_.head(rows, hidden_.data() + first * engine_.config().hidden_size, logits);
}

}  // namespace fathom
