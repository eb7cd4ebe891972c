// Numbers that stand for types in a GGUF file.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "formats/tensor.h"

namespace fathom {

inline constexpr std::uint64_t default_gguf_alignment = 32;

/// The types of metadata.
enum class GgufValueType : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};

/// ggml_type.
struct GgufTensorType {
  std::uint32_t id;
  std::string_view name;
  std::optional<DType> dtype;  ///< nothing: known, but not supported
};
inline constexpr GgufTensorType gguf_tensor_types[] = {{0, "F32", DType::f32},
                                                       {1, "F16", DType::f16},
                                                       {2, "Q4_0", DType::q4_0},
                                                       {3, "Q4_1", DType::q4_1},
                                                       {6, "Q5_0", DType::q5_0},
                                                       {7, "Q5_1", DType::q5_1},
                                                       {8, "Q8_0", DType::q8_0},
                                                       {9, "Q8_1", {}},
                                                       {10, "Q2_K", DType::q2_k},
                                                       {11, "Q3_K", DType::q3_k},
                                                       {12, "Q4_K", DType::q4_k},
                                                       {13, "Q5_K", DType::q5_k},
                                                       {14, "Q6_K", DType::q6_k},
                                                       {15, "Q8_K", {}},
                                                       {16, "IQ2_XXS", {}},
                                                       {17, "IQ2_XS", {}},
                                                       {18, "IQ3_XXS", {}},
                                                       {19, "IQ1_S", {}},
                                                       {20, "IQ4_NL", {}},
                                                       {21, "IQ3_S", {}},
                                                       {22, "IQ2_S", {}},
                                                       {23, "IQ4_XS", {}},
                                                       {24, "I8", {}},
                                                       {25, "I16", {}},
                                                       {26, "I32", {}},
                                                       {27, "I64", {}},
                                                       {28, "F64", DType::f64},
                                                       {29, "IQ1_M", {}},
                                                       {30, "BF16", DType::bf16},
                                                       {34, "TQ1_0", {}},
                                                       {35, "TQ2_0", {}},
                                                       {39, "MXFP4", {}},
                                                       {40, "NVFP4", {}},
                                                       {41, "Q1_0", {}}};

}  // namespace fathom
