// Products with integer weights by widening multiplications, for every processor with ARM's 64 bits.
#include "kernels/byte_units_arm.h"
#include "kernels/product_integers-inl.h"

namespace fathom::products {

void integers_neon(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                   const Destination& to, std::byte*) {
  IntegerProduct<SignedUnit<Widening>>(weight, x, to).run(rows, panels);
}

}  // namespace fathom::products
