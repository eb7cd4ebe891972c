// Hugging Face's config.json, as transformers 4 and 5 write it, to ModelConfig.
//
// What a file leaves out has the default of transformers' configuration class. What would change the result
// and is not supported is refused by name: an architecture, an activation, a rotary scaling, a quantisation.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/config.h"
#include "model/rope.h"

namespace fathom {

struct HfConfig {
  ModelConfig config;
  std::vector<std::int64_t> layer_types;  ///< for each of num_hidden_layers: index into attention_types
  /// tie_word_embeddings as written; absent: the class's default is in config.tied_embeddings.
  std::optional<bool> tied_as_written;
};

/// Reads a configuration whose model_type is one of the supported architectures. attention_types depends on
/// the architecture and its window alone, not on which layers use them, so that indices stay valid when
/// layers are dropped. `end_tokens` holds eos_token_id. Throws Error naming the file and the field.
HfConfig parse_hf_config(const JsonObject& json);

/// What the file says of rotary embeddings, for make_rope (model/rope.h).
struct RopeSettings {
  JsonObject settings;
  RopeDefaults defaults;
  std::shared_ptr<const Json> own;  ///< what `settings` is of, where it is no part of the file's JSON
};
/// Those of layers with a window (`local`), or of the others. Throws Error naming the file and the field.
RopeSettings rope_settings(const JsonObject& json, const ModelConfig& config, bool local);

/// The sizes of GPT-NeoX's matrices (Pythia), for relaxed_parameters: Fathom counts such models but does not
/// run them. Throws Error naming the file and the field.
HfConfig parse_gpt_neox_sizes(const JsonObject& json);

/// Class that transformers makes for it: "LlamaForCausalLM".
std::string causal_lm_class(const std::string& architecture);

/// eos_token_id of a config.json or generation_config.json: absent, a number or a list. -1 and null are no
/// token.
std::vector<std::int64_t> read_end_tokens(const JsonObject& json);

/// Writes into `json` whether there are biases of attention's maps and of the feed-forward's, where its
/// architecture lets the file say that; where it does not, as with Qwen 2, nothing is written.
void write_biases(Json& json, bool attention, bool mlp);

/// Writes `types` (as in HfConfig::layer_types) into `json` so that transformers builds the same layers:
/// num_hidden_layers, layer_types, max_window_layers, sliding_window_pattern.
void write_layer_types(Json& json, const ModelConfig& config, const std::vector<std::int64_t>& types);

}  // namespace fathom
