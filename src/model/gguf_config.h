// GGUF metadata and tensor names, as llama.cpp's converter writes them, to Hugging Face's.
#pragma once

#include <vector>

#include "base/json.h"
#include "formats/gguf.h"
#include "model/config.h"

namespace fathom {

/// The config.json that transformers would have beside the same weights (in transformers 4's keys, which 5
/// reads too), or Fathom's for nanbeige, a Llama in loops. Architectures llama (Mistral comes as llama too),
/// nanbeige, qwen2, qwen3, gemma, gemma2 and gemma3.
/// Throws Error naming the file and the key; others are refused by name.
Json hf_config_from_gguf(const GgufFile& file);

/// The file's tensors under canonical names; views that know what decoding them takes (rows of q and k, gains
/// of Gemma's norms). Throws Error for a tensor that such a model does not have.
TensorMap canonical_tensors(const GgufFile& file, const ModelConfig& config);

/// Divisors of the rotary frequencies from the tensor rope_freqs.weight, if the file has one that
/// hf_config_from_gguf could not express as a well-known Llama 3 scaling; else empty. A model with them runs,
/// but cannot be saved with a config.json.
std::vector<float> inexpressible_rope_factors(const GgufFile& file, const ModelConfig& config);

}  // namespace fathom
