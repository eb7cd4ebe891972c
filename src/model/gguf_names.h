// GGUF's names of a model's tensors and Hugging Face's.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "model/config.h"

namespace fathom {

/// "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight"; nothing for a name that is none of
/// ours.
std::optional<std::string> canonical_from_gguf(std::string_view name, const ModelConfig& config);

/// GGUF's name of what every layer has one of: "self_attn.q_proj" -> "attn_q".
std::string_view gguf_layer_part(std::string_view part, const ModelConfig& config);

}  // namespace fathom
