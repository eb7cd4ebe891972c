// The processes that train together ("ranks"), and all that they say to each other: sums, shares, a few
// numbers a step. Only ranks.cpp knows of torch's c10d.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "train/run/launch.h"

namespace at {
class Tensor;
}

namespace fathom {

/// Another process is gone. Says which, and what it was waited for.
class RankLost : public Error {
 public:
  using Error::Error;
};

/// Every rank must call the same functions in the same order: each ends only when all ranks have come to it.
/// Waiting has no limit while the others live; a rank that ends or gives no sign of life for some time ends
/// the waiting of all others with RankLost (Interrupted where this process was interrupted, too). `what` says
/// in that message what was waited for.
class Ranks {
 public:
  Ranks();  ///< this process alone: sums are its own, shares are all there is
  /// Finds the others. A rank is lost after `timeout` seconds without a sign of life, and the others have so
  /// long to come. Throws Error naming the address, or the ranks that did not come.
  Ranks(const Launch& launch, double timeout);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int rank() const { return launch_.rank; }
  int count() const { return launch_.ranks; }
  bool is_first() const { return launch_.rank == 0; }
  int local_rank() const { return launch_.local_rank; }  ///< among those on this machine

  /// Adds the values (float32, contiguous) up over all ranks, in the background: nobody may touch them until
  /// finish_sums(). Every rank gets the same bits. Values of a GPU stay there (NCCL).
  void begin_sum(const at::Tensor& values) const;
  /// Returns when all sums that were begun are there.
  void finish_sums(const std::string& what) const;

  /// The values (flat) consist of one part of the same size for each rank, in their order. Each gives its own
  /// and gets all others.
  void share(const at::Tensor& values, const std::string& what) const;

  /// What each rank says, by rank. All must say as much.
  std::vector<std::vector<double>> gather(const std::vector<double>& own, const std::string& what) const;
  /// What rank 0 says.
  double of_first(double own, const std::string& what) const { return gather({own}, what)[0][0]; }
  /// True if it is on any rank.
  bool any(bool own, const std::string& what) const;

  /// Says that this rank needs no other any more, so that its end is no loss to them. The last call.
  void leave() const;

 private:
  struct Group;
  Launch launch_;
  std::unique_ptr<Group> group_;  ///< none where this process is alone
};

}  // namespace fathom
