// The trained values' gradients, side by side in buckets that the ranks add up at once.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "model/depth_plan.h"
#include "train/ops/linear.h"
#include "train/run/ranks.h"

namespace fathom {

/// Gradients are summed while the backward pass of a step's last micro-batch is still on its way (Li et al.
/// 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", arXiv 2006.15704, section
/// 3.2.3): buckets are in the order in which it completes them, later visits first. A layer that is visited
/// several times is complete with its first visit, and is summed once.
///
/// Where the optimiser is sharded (ZeRO, stage 1: Rajbhandari et al. 2020, arXiv 1910.02054), each rank keeps
/// the moments of its share of each bucket, updates those values, and all get them. Gradients are still
/// summed as a whole, half as much again to send as the paper's reduce-scatter: in return every rank has the
/// same norm, and the same weights to the last bit as without sharding.
///
/// A process alone has no buckets; nothing here does anything then.
class Buckets {
 public:
  /// Lays the gradients (and, where it is sharded, the values) of all trainable parameters anew; what they
  /// hold stays. All must outlive this. A bucket has `size` values or a few more: by 6.5 million (25 MB) the
  /// time of a sum is that of its bytes.
  Buckets(std::map<std::string, Parameter>& parameters, const DepthPlan& plan, const Ranks& ranks,
          bool sharded, std::int64_t size = 6'500'000);

  /// The last backward pass of a step is about to begin.
  void begin();
  /// The gradients of visit number `visit` and of all after it are complete.
  void complete(std::int64_t visit);
  /// All gradients are complete. Returns when those of all ranks are added up.
  void finish();

  /// Values of a parameter that this rank updates, and whose moments it keeps.
  struct Share {
    std::int64_t first = 0, count = 0;
  };
  const Share& share(const std::string& name) const { return shares_.at(name); }
  bool sharded() const { return sharded_; }
  /// Number of the first visit that reads the parameter, -1 for what lies outside of the layers.
  std::int64_t first_visit(const std::string& name) const { return visits_.at(name); }
  /// Each rank has updated its share: all get all values.
  void share_values() const;
  /// `own` of each rank, a share of `shape`, put together on rank 0: float32, undefined on the others.
  at::Tensor whole(const at::Tensor& own, const Share& share, at::IntArrayRef shape) const;

 private:
  struct Bucket {
    at::Tensor gradients, values;  ///< float32, flat, of a length that all ranks share alike
    std::int64_t visit = 0;        ///< complete with this one
    std::vector<const Parameter*> members = {};
  };
  void close(std::vector<std::pair<std::string, Parameter*>>& members, std::int64_t visit);

  const Ranks& ranks_;
  bool sharded_;
  std::vector<Bucket> buckets_;
  std::map<std::string, Share> shares_;
  std::map<std::string, std::int64_t> visits_;
  bool begun_ = false;
  std::size_t summed_ = 0;  ///< buckets whose sums have begun
};

}  // namespace fathom
