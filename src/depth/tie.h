// One shared matrix for the weights that several depths have for the same linear map, and a low-rank pair for
// each depth.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "depth/linear_algebra.h"

namespace fathom {

/// W_l is stood for by shared + own[l].b own[l].a.
struct TiedMatrix {
  Matrix shared;             ///< [out, in]
  std::vector<LowRank> own;  ///< one a depth, all of the same rank
};

/// Keeps `shared` and gives each depth the truncated SVD of what is missing, W_l - shared. A depth that
/// misses nothing gets a Gaussian A and B = 0 (arXiv 2410.20672, App. C), so that training can move it.
/// `rank` is clipped to min(in, out).
TiedMatrix relax_by_svd(Matrix shared, std::span<const Matrix> weights, std::int64_t rank, Random& random);

/// Keeps `shared` and gives each of `depths` a Gaussian A (variance 1 / in, so that A x is as large as x) and
/// B = 0.
TiedMatrix relax_by_zero(Matrix shared, std::size_t depths, std::int64_t rank, Random& random);

/// What the calibrated fit needs to know of the inputs x_l of one linear map at the tied depths; maps that
/// read the same input (q, k, v; gate, up) use the same one.
struct InputStatistics {
  std::vector<Matrix> moments;  ///< C_l = E[x_l x_lᵀ], [in, in], one a depth; positive definite
  std::vector<Matrix> shares;   ///< C_l (sum of all C)⁻¹: how much depth l has to say in the shared matrix
};
/// Computes the shares. Throws Error when the moments are not positive definite.
InputStatistics input_statistics(std::vector<Matrix> moments);

/// Minimises sum_l E|(W_l - shared - B_l A_l) x_l|² by alternating two closed forms (docs/tying.md), `rounds`
/// times:
///   shared  = sum_l (W_l - B_l A_l) C_l (sum_l C_l)⁻¹
///   B_l A_l = U Uᵀ (W_l - shared), U the first `rank` eigenvectors of (W_l - shared) C_l (W_l - shared)ᵀ
/// The second is the truncated SVD of (W_l - shared) S_l times S_l⁻¹, for any square root S_l of C_l; written
/// so it needs neither the root nor its inverse. U is followed from round to round by one step of subspace
/// iteration: a depth and round cost about 4 rank (2 in out + in²) multiplications, some hundredths of an
/// exact SVD. The shared matrix goes on in the direction of its last step (Nesterov's momentum), which takes
/// 16 rounds to where the bare alternation comes in 50. Rank 0: the first line alone.
TiedMatrix tie_calibrated(std::span<const Matrix> weights, const InputStatistics& inputs, std::int64_t rank,
                          std::int64_t rounds, Random& random);

/// The pair of `rank` that minimises E|(x - b a) v|² for inputs v with these moments E[v vᵀ].
LowRank best_pair(const Matrix& x, const Matrix& moments, std::int64_t rank);

/// ||W_l - shared - B_l A_l|| / ||W_l|| for each depth, in the Frobenius norm, or, given moments, as
/// E|... x_l|² under the root.
std::vector<double> relative_errors(std::span<const Matrix> weights, const TiedMatrix& tied,
                                    std::span<const Matrix> moments = {});

}  // namespace fathom
