#include "model/tensor_names.h"

#include <algorithm>
#include <array>
#include <set>

namespace fathom {
namespace {

// Names that torch's wrappers (compile, DDP, FSDP, checkpointing) put into the way to a tensor.
constexpr std::array<std::string_view, 5> wrappers = {"_orig_mod", "module", "_fsdp_wrapped_module",
                                                      "_checkpoint_wrapped_module", "_forward_module"};
constexpr std::array<std::string_view, 2> other_models = {"vision_tower", "multi_modal_projector"};
constexpr std::array<std::string_view, 3> tables = {".rotary_emb.inv_freq", ".attn.bias",
                                                    ".attn.masked_bias"};
constexpr std::array<std::string_view, 4> body_parts = {"embed_tokens.", "layers.", "norm.", "adapters."};

/// The name without wrappers; nothing if it belongs to a part that is not the language model.
std::optional<std::string> unwrapped(std::string_view name) {
  std::string result;
  while (true) {
    const std::size_t dot = name.find('.');
    const std::string_view part = name.substr(0, dot);
    if (std::ranges::find(other_models, part) != other_models.end()) return std::nullopt;
    if (std::ranges::find(wrappers, part) == wrappers.end()) result.append(part).append(".");
    if (dot == std::string_view::npos) break;
    name.remove_prefix(dot + 1);
  }
  if (!result.empty()) result.pop_back();
  return result;
}

/// What stands before `end`, where the name ends with that as a part of its own.
std::optional<std::string_view> before(std::string_view name, std::string_view end) {
  if (!name.ends_with(end)) return std::nullopt;
  name.remove_suffix(end.size());
  if (!name.empty() && name.back() != '.') return std::nullopt;
  return name;
}

}  // namespace

TensorNames::TensorNames(const SafetensorsContent& content) {
  std::set<std::string, std::less<>> bodies;
  const auto look_at = [&](const std::string& name) {
    const auto plain = unwrapped(name);
    for (const char* end : {"embed_tokens.weight", "layers.0.input_layernorm.weight"})
      if (const auto body = plain ? before(*plain, end) : std::nullopt) bodies.emplace(*body);
  };
  for (const auto& [name, tensor] : content.tensors) look_at(name);
  for (const auto& [name, reason] : content.left_out) look_at(name);
  // Two of them are two models in one file: then only the usual name is right.
  if (bodies.size() == 1) body_ = *bodies.begin();
}

std::optional<std::string> TensorNames::canonical(std::string_view name) const {
  const auto unwrapped_name = unwrapped(name);
  if (!unwrapped_name) return std::nullopt;
  const std::string& plain = *unwrapped_name;
  for (const std::string_view table : tables)
    if (plain.ends_with(table)) return std::nullopt;
  for (const std::string_view head : {"lm_head.weight", "lm_head.bias"})
    if (const auto outer = before(plain, head); outer && body_.starts_with(*outer)) return std::string(head);
  if (!plain.starts_with(body_)) return plain;
  const std::string_view rest = std::string_view(plain).substr(body_.size());
  const bool known = std::ranges::any_of(body_parts, [&](auto part) { return rest.starts_with(part); });
  return known ? "model." + std::string(rest) : plain;
}

}  // namespace fathom
