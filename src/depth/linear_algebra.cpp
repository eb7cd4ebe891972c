#include "depth/linear_algebra.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/error.h"
#include "base/threads.h"

namespace fathom {
namespace {

constexpr std::int64_t strip_rows = 64;  // of a sum over rows, a thread's share at a time

lapack_int lapack_size(std::int64_t size) { return static_cast<lapack_int>(size); }

/// OpenBLAS would start a pool of its own beside the program's.
[[maybe_unused]] const bool single_threaded = [] {
  openblas_set_num_threads(1);
  return true;
}();

void check(lapack_int info, const char* routine) {
  if (info != 0) fail("LAPACK's {} failed ({}): a matrix is not finite or not as expected", routine, info);
}

}  // namespace

Matrix to_matrix(const Tensor& tensor) {
  Matrix matrix;
  matrix.rows = tensor.rows();
  matrix.cols = tensor.row_elements();
  matrix.values = decode(tensor);
  return matrix;
}

Tensor to_tensor(DType type, const Matrix& matrix) {
  return make_tensor(type, {matrix.rows, matrix.cols}, matrix.values);
}

void multiply(const Matrix& a, Transpose transpose_a, const Matrix& b, Transpose transpose_b, float alpha,
              float beta, Matrix& c) {
  const std::int64_t inner = transpose_a == Transpose::no ? a.cols : a.rows;
  if (c.rows == 0 || c.cols == 0 || inner == 0) return;
  const auto mode = [](Transpose t) { return t == Transpose::no ? CblasNoTrans : CblasTrans; };
  cblas_sgemm(CblasRowMajor, mode(transpose_a), mode(transpose_b), lapack_size(c.rows), lapack_size(c.cols),
              lapack_size(inner), alpha, a.values.data(), lapack_size(a.cols), b.values.data(),
              lapack_size(b.cols), beta, c.values.data(), lapack_size(c.cols));
}

Matrix multiply(const Matrix& a, Transpose transpose_a, const Matrix& b, Transpose transpose_b) {
  Matrix c(transpose_a == Transpose::no ? a.rows : a.cols, transpose_b == Transpose::no ? b.cols : b.rows);
  multiply(a, transpose_a, b, transpose_b, 1, 0, c);
  return c;
}

Matrix multiply(const Matrix& a, const Matrix& b) { return multiply(a, Transpose::no, b, Transpose::no); }

void add_scaled(const Matrix& x, float scale, Matrix& y) {
  for (std::size_t i = 0; i < x.values.size(); ++i) y.values[i] += scale * x.values[i];
}

double dot(const Matrix& x, const Matrix& y) {
  double sum = 0;
  for (std::size_t i = 0; i < x.values.size(); ++i) {
    sum += static_cast<double>(x.values[i]) * static_cast<double>(y.values[i]);
  }
  return sum;
}

double norm(const Matrix& x) { return std::sqrt(dot(x, x)); }

Matrix mean(const std::vector<Matrix>& matrices) {
  Matrix result(matrices.front().rows, matrices.front().cols);
  for (const Matrix& matrix : matrices)
    add_scaled(matrix, 1.0F / static_cast<float>(matrices.size()), result);
  return result;
}

// Strips of rows, each one product with the columns up to its end. A job takes a strip from either end, so
// that all jobs are alike.
void add_gram(std::int64_t rows, const float* x, Matrix& sum) {
  const std::int64_t width = sum.rows, strips = (width + strip_rows - 1) / strip_rows;
  const auto add_strip = [&](std::int64_t strip) {
    const std::int64_t first = strip * strip_rows, last = std::min(width, first + strip_rows);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, lapack_size(last - first), lapack_size(last),
                lapack_size(rows), 1, x + first, lapack_size(width), x, lapack_size(width), 1, sum.row(first),
                lapack_size(width));
  };
  parallel_for((strips + 1) / 2, [&](std::int64_t i) {
    add_strip(i);
    if (strips - 1 - i != i) add_strip(strips - 1 - i);
  });
}

void add_products(std::int64_t rows, const float* y, const float* x, Matrix& sum) {
  parallel_for((sum.rows + strip_rows - 1) / strip_rows, [&](std::int64_t strip) {
    const std::int64_t first = strip * strip_rows, last = std::min(sum.rows, first + strip_rows);
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, lapack_size(last - first), lapack_size(sum.cols),
                lapack_size(rows), 1, y + first, lapack_size(sum.rows), x, lapack_size(sum.cols), 1,
                sum.row(first), lapack_size(sum.cols));
  });
}

Matrix gaussian(std::int64_t rows, std::int64_t cols, Random& random) {
  Matrix x(rows, cols);
  for (float& value : x.values) value = static_cast<float>(random.normal());
  return x;
}

void orthonormalise(Matrix& x) {
  const lapack_int rows = lapack_size(x.rows), cols = lapack_size(x.cols);
  if (cols == 0) return;
  std::vector<float> tau(static_cast<std::size_t>(cols));
  check(LAPACKE_sgeqrf(LAPACK_ROW_MAJOR, rows, cols, x.values.data(), cols, tau.data()), "sgeqrf");
  check(LAPACKE_sorgqr(LAPACK_ROW_MAJOR, rows, cols, cols, x.values.data(), cols, tau.data()), "sorgqr");
}

Matrix eigenvectors(Matrix symmetric, std::vector<float>& values) {
  const lapack_int size = lapack_size(symmetric.rows);
  values.resize(static_cast<std::size_t>(size));
  if (size == 0) return symmetric;
  check(LAPACKE_ssyevd(LAPACK_ROW_MAJOR, 'V', 'L', size, symmetric.values.data(), size, values.data()),
        "ssyevd");
  std::reverse(values.begin(), values.end());
  for (std::int64_t i = 0; i < size; ++i) std::reverse(symmetric.row(i), symmetric.row(i) + size);
  return symmetric;
}

Matrix divide(const Matrix& right, const Matrix& left) {
  const lapack_int size = lapack_size(left.rows);
  std::vector<double> factor(left.values.begin(), left.values.end());
  std::vector<double> solution(right.values.begin(), right.values.end());
  check(LAPACKE_dpotrf(LAPACK_ROW_MAJOR, 'L', size, factor.data(), size), "dpotrf");
  // x left = right; with left = L Lᵀ two triangular solves from the right, over all rows at once.
  for (const auto mode : {CblasTrans, CblasNoTrans}) {
    cblas_dtrsm(CblasRowMajor, CblasRight, CblasLower, mode, CblasNonUnit, lapack_size(right.rows), size, 1.0,
                factor.data(), size, solution.data(), size);
  }
  Matrix quotient(right.rows, right.cols);
  std::transform(solution.begin(), solution.end(), quotient.values.begin(),
                 [](double value) { return static_cast<float>(value); });
  return quotient;
}

LowRank truncated_svd(const Matrix& x, std::int64_t rank) {
  LowRank pair{Matrix(x.rows, rank), Matrix(rank, x.cols)};
  if (rank == 0) return pair;
  const std::int64_t full = std::min(x.rows, x.cols);
  Matrix copy = x, u(x.rows, full), vt(full, x.cols);
  std::vector<float> singular(static_cast<std::size_t>(full));
  check(LAPACKE_sgesdd(LAPACK_ROW_MAJOR, 'S', lapack_size(x.rows), lapack_size(x.cols), copy.values.data(),
                       lapack_size(x.cols), singular.data(), u.values.data(), lapack_size(full),
                       vt.values.data(), lapack_size(x.cols)),
        "sgesdd");
  for (std::int64_t i = 0; i < x.rows; ++i) {
    for (std::int64_t j = 0; j < rank; ++j) {
      pair.b.row(i)[j] = u.row(i)[j] * singular[static_cast<std::size_t>(j)];
    }
  }
  std::copy_n(vt.values.begin(), rank * x.cols, pair.a.values.begin());
  return pair;
}

}  // namespace fathom
