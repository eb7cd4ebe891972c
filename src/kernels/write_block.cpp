// Where results of products go, for kernels that hand over a block of sums at a time, while it is in the L1
// cache.
#include "kernels/isa.h"
#include "kernels/product.h"
#include "kernels/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/write_block.cpp"
#include <hwy/foreach_target.h>
// After foreach_target, as Highway wants it.
#include "kernels/block_writer-inl.h"

HWY_BEFORE_NAMESPACE();
namespace fathom::simd::HWY_NAMESPACE {

void write_block(const PackedMatrix& weight, const Destination& to, const Block& block) {
  const auto run = [&](auto writer) { write_all<decltype(writer)>(weight, to, block); };
  native_bf16() ? with_writer<false, true>(weight, to, run) : with_writer<false, false>(weight, to, run);
}

}  // namespace fathom::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace fathom {
namespace simd {
HWY_EXPORT(write_block);
}

void write_block(const PackedMatrix& weight, const Destination& to, const Block& block) {
  using namespace simd;
  HWY_DYNAMIC_DISPATCH(write_block)(weight, to, block);
}

}  // namespace fathom
#endif
