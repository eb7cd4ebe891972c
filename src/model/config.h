// What a decoder-only transformer is made of, as options of one layer: an architecture is a set of values
// here, not code.
//
//   h = embed(ids) * embedding_scale
//   each visit:  h += post_norm?( o( attention( rope( qk_norm?( q,k,v( norm(h) ) ) ) ) ) )
//                h += post_norm?( down( activation(gate(norm(h))) * up(norm(h)) ) )
//   logits = softcap?( head( norm(h) ) )
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fathom {

enum class Activation { silu, gelu, gelu_tanh, relu };

/// Rotary embedding: pairs (i, i + head_dim/2) turn by position * frequency_i. `frequencies` has head_dim/2
/// entries with all scaling (linear, llama3, yarn, ...) applied; `attention_factor` multiplies cos and sin
/// (yarn).
struct Rope {
  std::vector<float> frequencies;
  float attention_factor = 1;

  bool operator==(const Rope&) const = default;
};

/// One kind of attention; visits choose among them (Gemma alternates two).
struct AttentionType {
  std::string name = "full_attention";  ///< as in Hugging Face's layer_types
  std::int64_t window = 0;              ///< a token sees itself and the window-1 before it; 0: all before it
  Rope rope;

  bool operator==(const AttentionType&) const = default;
};

struct ModelConfig {
  std::string architecture;  ///< Hugging Face's model_type: "llama", "mistral", "qwen2", "qwen3", "gemma",
                             ///< "gemma2", "gemma3_text"
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t vocab_size = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_positions = 0;

  double norm_eps = 1e-6;
  bool norm_plus_one = false;   ///< gain is 1 + w (Gemma)
  bool sandwich_norms = false;  ///< a norm after attention and after the feed-forward too (Gemma 2, 3)
  bool qk_norm = false;         ///< RMS norm over each head of q and k before the rotation (Qwen 3, Gemma 3)
  bool qkv_bias = false;
  bool o_bias = false;
  bool mlp_bias = false;
  bool gated = true;  ///< the feed-forward has a gate; without one (GPT-NeoX) a model is counted, not run
  double attention_scale = 0;    ///< multiplies q·k
  double attention_softcap = 0;  ///< s -> c tanh(s / c); 0: none
  double logit_softcap = 0;
  double embedding_scale = 1;
  bool tied_embeddings = false;  ///< the head is the embedding matrix
  Activation activation = Activation::silu;
  std::vector<AttentionType> attention_types;

  std::vector<std::int64_t>
      end_tokens;  ///< end of text, from config.json and generation_config.json; may be empty

  bool operator==(const ModelConfig&) const = default;
};

/// The seven linear maps of a layer, in the order of the computation.
enum class Linear { q, k, v, o, gate, up, down };
inline constexpr Linear all_linears[] = {Linear::q,    Linear::k,  Linear::v,   Linear::o,
                                         Linear::gate, Linear::up, Linear::down};

/// "self_attn.q_proj", ..., "mlp.down_proj": Hugging Face's names, the canonical ones in Fathom.
const char* linear_name(Linear linear);
/// Output and input width.
std::int64_t out_features(const ModelConfig& config, Linear linear);
std::int64_t in_features(const ModelConfig& config, Linear linear);
bool has_bias(const ModelConfig& config, Linear linear);

/// Names of the norms a layer has, in the order of the computation ("input_layernorm", "self_attn.q_norm",
/// ...), with widths.
struct NormInfo {
  std::string name;
  std::int64_t width;
};
std::vector<NormInfo> layer_norms(const ModelConfig& config);

}  // namespace fathom
