// Products with integer weights for processors with AVX2 and without VNNI.
#include "kernels/product_integers-inl.h"

namespace fathom::products {

void integers_avx2(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                   const Destination& to, std::byte*) {
  IntegerProduct<Maddubs<Vectors256>>(weight, x, to).run(rows, panels);
}

}  // namespace fathom::products
