// Attention on all threads: cuts the work into blocks and chunks of them, and shares these out.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/aligned.h"
#include "kernels/attention_block.h"
#include "kernels/backend.h"

namespace fathom {

class AttentionWork {
 public:
  /// As Backend::attention. A row's result is the same to the last bit whatever other rows and spans are
  /// computed with it, and by however many threads. Keys and values may be `fresh` where no span is longer
  /// than block_tokens().
  void run(const AttentionShape& shape, std::span<const AttentionSpan> spans, const float* queries,
           const NewKv& fresh, Rows out);

  /// Tokens of a span that are computed together.
  static std::int64_t block_tokens(const AttentionShape& shape);

 private:
  struct Unit {
    std::int64_t block = 0;
    std::int64_t chunk = -1;  // of a split block; -1: all of a block
  };
  struct Split {
    std::int64_t gathered = 0;   // where in gathered_ its chunks lie
    std::int32_t remaining = 0;  // chunks not computed yet; 0: not split
  };
  struct Source {
    const AttentionSpan* span = nullptr;
    std::int64_t kv_head = 0;
  };
  void plan(const AttentionShape& shape, std::span<const AttentionSpan> spans, const float* queries,
            Rows out);
  UpcomingPages pages_of(const Unit& unit) const;
  void run_unit(const Unit& unit, const KvLayout& cache, const NewKv& fresh, const UpcomingPages& upcoming,
                std::byte* scratch);

  AttentionKernel kernel_ = {};
  std::vector<AttentionBlock> blocks_;
  std::vector<Split> splits_;    // one a block
  std::vector<Source> sources_;  // likewise
  std::vector<Unit> units_;
  std::int64_t scratch_bytes_ = 0, gathered_floats_ = 0, page_reads_ = 0;
  AlignedBuffer scratch_, gathered_;
};

}  // namespace fathom
