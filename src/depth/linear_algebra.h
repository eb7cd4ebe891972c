// Matrices and the few factorisations that depth work needs, over OpenBLAS and LAPACK. Each call runs on the
// calling thread alone: the work is many independent matrices, which parallel_for shares out, and small
// factorisations do not scale over threads. Only the sums over the rows of a text use all of them.
#pragma once

#include <cstdint>
#include <vector>

#include "base/random.h"
#include "formats/tensor.h"

namespace fathom {

/// Row-major [rows, cols].
struct Matrix {
  std::int64_t rows = 0, cols = 0;
  std::vector<float> values;

  Matrix() = default;
  Matrix(std::int64_t row_count, std::int64_t col_count)
      : rows(row_count), cols(col_count), values(static_cast<std::size_t>(row_count * col_count)) {}
  float* row(std::int64_t index) { return values.data() + index * cols; }
  const float* row(std::int64_t index) const { return values.data() + index * cols; }
};

/// The values of a tensor [rows, ...], decoded; and a new tensor of these values, rounded to `type`.
Matrix to_matrix(const Tensor& tensor);
Tensor to_tensor(DType type, const Matrix& matrix);

enum class Transpose { no, yes };

/// alpha op(a) op(b) + beta c, into c, which must have the right shape.
void multiply(const Matrix& a, Transpose transpose_a, const Matrix& b, Transpose transpose_b, float alpha,
              float beta, Matrix& c);
/// op(a) op(b).
Matrix multiply(const Matrix& a, Transpose transpose_a, const Matrix& b, Transpose transpose_b);
/// a b.
Matrix multiply(const Matrix& a, const Matrix& b);

/// y += scale x, element by element; same shapes.
void add_scaled(const Matrix& x, float scale, Matrix& y);
double dot(const Matrix& x, const Matrix& y);      ///< sum of products, in double
double norm(const Matrix& x);                      ///< Frobenius
Matrix mean(const std::vector<Matrix>& matrices);  ///< of at least one, all of one shape

/// sum += xᵀ x of x [rows, sum.rows], the lower triangle alone; on all threads.
void add_gram(std::int64_t rows, const float* x, Matrix& sum);
/// sum += yᵀ x of y [rows, sum.rows] and x [rows, sum.cols]; on all threads.
void add_products(std::int64_t rows, const float* y, const float* x, Matrix& sum);

/// Standard normal entries.
Matrix gaussian(std::int64_t rows, std::int64_t cols, Random& random);

/// Replaces the columns of x [rows, cols], cols <= rows, by an orthonormal basis of their span (Householder
/// QR; a deficient span is completed). Throws Error.
void orthonormalise(Matrix& x);

/// Eigenvectors of a symmetric matrix as columns, largest eigenvalue first; `values` gets the eigenvalues.
/// Throws Error.
Matrix eigenvectors(Matrix symmetric, std::vector<float>& values);

/// The product right · left⁻¹ for a symmetric positive definite `left`, in double (Cholesky). Throws Error
/// when `left` is not positive definite.
Matrix divide(const Matrix& right, const Matrix& left);

/// b [rows, rank] a [rank, cols]; rank 0 is no matrix at all.
struct LowRank {
  Matrix b, a;
  std::int64_t rank() const { return a.rows; }
};

/// Best approximation of `rank` <= min(rows, cols) in the Frobenius norm: b = U S, a = Vᵀ. Throws Error when
/// x is not finite.
LowRank truncated_svd(const Matrix& x, std::int64_t rank);

}  // namespace fathom
