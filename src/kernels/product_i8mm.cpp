// Products with integer weights for ARM with SMMLA.
#include "kernels/byte_units_arm.h"
#include "kernels/product_integers-inl.h"

namespace fathom::products {

void integers_i8mm(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                   const Destination& to, std::byte*) {
  IntegerProduct<SignedUnit<TwoByTwo>>(weight, x, to).run(rows, panels);
}

}  // namespace fathom::products
