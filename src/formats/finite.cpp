#include "formats/finite.h"

#include <cstdint>
#include <cstring>

#include "base/error.h"

namespace fathom {
namespace {

/// NaN and infinities are the values whose exponent has all bits set. A first pass, which nearly always finds
/// nothing, has no branches and is as fast as memory; a second one finds the place.
template <typename Bits>
std::optional<std::size_t> first_with(std::span<const std::byte> values, Bits exponent) {
  const std::size_t count = values.size() / sizeof(Bits);
  const auto at = [&](std::size_t i) {
    Bits bits{};
    std::memcpy(&bits, values.data() + i * sizeof bits, sizeof bits);
    return (bits & exponent) == exponent;
  };
  Bits any = 0;
  for (std::size_t i = 0; i < count; ++i) any = static_cast<Bits>(any | (at(i) ? 1 : 0));
  for (std::size_t i = 0; any != 0 && i < count; ++i)
    if (at(i)) return i;
  return std::nullopt;
}

}  // namespace

std::optional<std::size_t> first_not_finite(DType type, std::span<const std::byte> values) {
  switch (type) {
    case DType::f32:
      return first_with<std::uint32_t>(values, 0x7f800000U);
    case DType::f16:
      return first_with<std::uint16_t>(values, 0x7c00U);
    case DType::bf16:
      return first_with<std::uint16_t>(values, 0x7f80U);
    default:
      fail("{} is no type that is written", dtype_name(type));
  }
}

}  // namespace fathom
