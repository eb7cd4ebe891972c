#include "model/gguf_names.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "base/error.h"

namespace fathom {
namespace {

constexpr std::array<std::pair<std::string_view, std::string_view>, 13> layer_parts{{
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", ""},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
}};

/// ffn_norm comes before the feed-forward, which Hugging Face calls by another name where there are norms
/// after the blocks too.
std::string_view norm_before_feed_forward(const ModelConfig& config) {
  return config.sandwich_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
}

std::optional<std::string_view> layer_part(std::string_view part, const ModelConfig& config) {
  if (part == "ffn_norm") return norm_before_feed_forward(config);
  const auto* found = std::ranges::find(layer_parts, part, [](const auto& names) { return names.first; });
  if (found == layer_parts.end()) return std::nullopt;
  return found->second;
}

}  // namespace

std::optional<std::string> canonical_from_gguf(std::string_view name, const ModelConfig& config) {
  if (name == "token_embd.weight") return "model.embed_tokens.weight";
  if (name == "output_norm.weight") return "model.norm.weight";
  if (name == "output.weight") return "lm_head.weight";
  constexpr std::string_view prefix = "blk.";
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  std::int64_t layer = 0;
  const auto [end, status] = std::from_chars(name.data(), name.data() + name.size(), layer);
  const auto digits = static_cast<std::size_t>(end - name.data());
  const std::size_t last_dot = name.rfind('.');
  if (status != std::errc() || digits >= name.size() || name[digits] != '.' || last_dot <= digits)
    return std::nullopt;
  const auto part = layer_part(name.substr(digits + 1, last_dot - digits - 1), config);
  if (!part) return std::nullopt;
  return fmt::format("model.layers.{}.{}{}", layer, *part, name.substr(last_dot));
}

std::string_view gguf_layer_part(std::string_view part, const ModelConfig& config) {
  if (part == norm_before_feed_forward(config)) return "ffn_norm";
  const auto* found = std::ranges::find(layer_parts, part, [](const auto& names) { return names.second; });
  if (found == layer_parts.end()) fail("GGUF files have no name for '{}'", part);
  return found->first;
}

}  // namespace fathom
