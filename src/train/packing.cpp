#include "train/packing.h"

#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/random.h"

namespace fathom {

Packing::Packing(const std::vector<std::vector<Token>>& documents, Token separator, std::int64_t context,
                 Token bos, std::uint64_t seed)
    : context_(context), sequences_(0), bos_(bos), seed_(seed) {
  for (const auto& document : documents) {
    if (document.empty()) continue;
    stream_.insert(stream_.end(), document.begin(), document.end());
    stream_.push_back(separator);
  }
  if (stream_.size() < 2) fail("the training text has no tokens: bring a text that is not empty");
  sequences_ = (tokens() + context - 1) / context;
}

Sequence Packing::at(std::int64_t position) {
  const std::int64_t epoch = position / sequences_;
  if (epoch != epoch_) {
    epoch_ = epoch;
    order_.resize(static_cast<std::size_t>(sequences_));
    std::iota(order_.begin(), order_.end(), 0);
    Random random(seed_ ^ (static_cast<std::uint64_t>(epoch) * 0x9e3779b97f4a7c15U));
    for (std::size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random.below(i)]);
  }
  const std::int64_t start = order_[static_cast<std::size_t>(position % sequences_)] * context_;
  const auto token = [&](std::int64_t i) { return stream_[static_cast<std::size_t>(i % tokens())]; };
  Sequence result;
  for (std::int64_t i = start; i < start + context_; ++i) {
    if (bos_ >= 0) {
      result.inputs.push_back(i == start ? bos_ : token(i - 1));
      result.labels.push_back(token(i));
    } else {
      result.inputs.push_back(token(i));
      result.labels.push_back(token(i + 1));
    }
  }
  return result;
}

}  // namespace fathom
