// Products with integer weights by VNNI in vectors of 256 bits.
#include "kernels/product_integers-inl.h"

namespace fathom::products {

void integers_avxvnni(const PackedMatrix& weight, const Activations& x, Range rows, Range panels,
                      const Destination& to, std::byte*) {
  IntegerProduct<Vnni<Vectors256>>(weight, x, to).run(rows, panels);
}

}  // namespace fathom::products
