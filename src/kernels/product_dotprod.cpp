// Products with integer weights for ARM with SDOT.
#include "kernels/byte_units_arm.h"
#include "kernels/product_integers-inl.h"

namespace fathom::products {

void integers_dotprod(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                      const Destination& to, std::byte*) {
  IntegerProduct<SignedUnit<Dots>>(weight, x, to).run(rows, panels);
}

}  // namespace fathom::products
