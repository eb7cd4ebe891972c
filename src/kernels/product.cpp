#include "kernels/product.h"

namespace fathom {

ProductKernel product_kernel(Compute type, Isa level) {
#if defined(__x86_64__)
  if (type == Compute::bf16 && level == Isa::amx) return {RowForm::bf16, 32, products::tiles_amx};
  if (type == Compute::int8 || type == Compute::int4) {
    if (level == Isa::amx) return {RowForm::int8, 32, products::tiles_amx};
    if (level == Isa::avx512) return {RowForm::int8, 1, products::integers_avx512};
    if (level == Isa::avx2) return {RowForm::int8, 1, products::integers_avx2};
  }
#endif
  if (type == Compute::int8 || type == Compute::int4) return {RowForm::int8, 1, products::integers_portable};
  return {type == Compute::f32 ? RowForm::f32 : RowForm::rounded, 1, products::floats};
}

std::int64_t product_scratch_bytes(const PackedMatrix& weight) {
  return weight.type == Compute::int4 ? 4 * weight.padded_in * panel_outputs : 0;
}

}  // namespace fathom
