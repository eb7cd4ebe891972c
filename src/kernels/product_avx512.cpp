// Products with integer weights for processors with AVX-512 and without VNNI.
#include "kernels/product_integers-inl.h"

namespace fathom::products {

void integers_avx512(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                     const Destination& to, std::byte*) {
  IntegerProduct<Maddubs<Vectors512>>(weight, x, to).run(rows, panels);
}

}  // namespace fathom::products
