// Directories and GGUF files to checkpoints.
#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "formats/gguf.h"
#include "model/checkpoint.h"
#include "model/gguf_config.h"
#include "model/hf_config.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

/// Gemma 3 with vision holds the language model's configuration in `text_config`; some of its keys stand
/// outside. The language model runs alone.
Json language_model_config(const Json& json, const std::string& where) {
  if (!json.is_object() || json.value("model_type", Json()) != "gemma3") return json;
  Json text = JsonObject(json, where).object("text_config").raw();
  text["model_type"] = "gemma3_text";
  for (const char* key : {"eos_token_id", "bos_token_id", "pad_token_id", "tie_word_embeddings", "dtype",
                          "torch_dtype", "quantization_config", "fathom"})
    if (json.contains(key) && !text.contains(key)) text[key] = json[key];
  return text;
}

void check_plan(const JsonObject& fathom, const Checkpoint& checkpoint, const HfConfig& hf, bool plain) {
  if (plain != checkpoint.plan.is_plain() && plain)
    fail("{} visits layers in a way that model_type '{}' does not say (expected model_type 'fathom')",
         fathom.field("plan"), hf.config.architecture);
  if (!plain) return;
  if (checkpoint.plan.layers != static_cast<std::int64_t>(hf.layer_types.size()))
    fail("{} has {} layers, but num_hidden_layers is {}", fathom.field("plan"), checkpoint.plan.layers,
         hf.layer_types.size());
  for (std::size_t i = 0; i < hf.layer_types.size(); i++)
    if (checkpoint.plan.visits[i].type != hf.layer_types[i])
      fail("{}: visit {} has another type than layer_types says", fathom.field("plan"), i);
}

/// Fills configuration, plan and provenance from the content of a config.json. Returns whether
/// tie_word_embeddings was written.
bool read_config(Checkpoint& checkpoint, Json json, const std::string& where) {
  json = language_model_config(json, where);
  const JsonObject whole(json, where);
  static const Json none = Json::object();
  const auto given = whole.object_if("fathom");
  const JsonObject fathom = given ? *given : JsonObject(none, where, "fathom");
  checkpoint.provenance = fathom.has("provenance") ? fathom.array("provenance", 10'000) : Json::array();

  Json hf_json = json;
  hf_json.erase("fathom");
  const bool plain = whole.string("model_type") != "fathom";
  if (!plain) hf_json["model_type"] = fathom.string("base_model_type");
  HfConfig hf = parse_hf_config(JsonObject(hf_json, where));
  checkpoint.config = hf.config;
  checkpoint.hf_config = std::move(hf_json);
  if (!plain || fathom.has("plan")) {
    checkpoint.plan = plan_from_json(fathom.object("plan"),
                                     static_cast<std::int64_t>(checkpoint.config.attention_types.size()));
    check_plan(fathom, checkpoint, hf, plain);
  } else {
    checkpoint.plan = plain_plan(hf.layer_types);
  }
  return hf.tied_as_written.has_value();
}

void add_end_tokens(ModelConfig& config, const std::vector<std::int64_t>& tokens) {
  for (const std::int64_t token : tokens)
    if (std::find(config.end_tokens.begin(), config.end_tokens.end(), token) == config.end_tokens.end())
      config.end_tokens.push_back(token);
}

/// `name` without `prefix`, if it has it.
std::optional<std::string> without(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  return std::string(name.substr(prefix.size()));
}

/// Hugging Face's name as the class for causal language models has it; nothing for what such a model does not
/// use: a vision tower, or rotary tables that old versions stored.
std::optional<std::string> canonical_name(std::string_view name) {
  for (const char* prefix :
       {"vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."})
    if (name.starts_with(prefix)) return std::nullopt;
  for (const char* suffix : {".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias"})
    if (name.ends_with(suffix)) return std::nullopt;
  if (auto rest = without(name, "language_model.")) return rest;
  if (auto rest = without(name, "model.language_model.")) return "model." + *rest;
  for (const char* bare : {"embed_tokens.", "layers.", "norm."})
    if (name.starts_with(bare)) return "model." + std::string(name);  // saved without the head
  return std::string(name);
}

TensorMap canonical_tensors(const TensorMap& tensors, const fs::path& directory) {
  TensorMap result;
  for (const auto& [name, tensor] : tensors) {
    const auto canonical = canonical_name(name);
    if (!canonical) continue;
    if (!result.emplace(*canonical, tensor).second)
      fail("{}: tensor '{}' is there twice, under two names", directory.string(), *canonical);
  }
  return result;
}

/// Whether the head is the embedding matrix: said by the configuration, or by the absence of a head where the
/// configuration is silent. A head beside a tied embedding is ignored, as transformers does.
void settle_head(Checkpoint& checkpoint, bool written) {
  if (!written && checkpoint.find("lm_head.weight") == nullptr) checkpoint.config.tied_embeddings = true;
  if (checkpoint.config.tied_embeddings) checkpoint.tensors.erase("lm_head.weight");
}

Checkpoint load_directory(const fs::path& directory) {
  Checkpoint checkpoint;
  checkpoint.source = directory;
  const fs::path file = directory / "config.json";
  const bool written = read_config(checkpoint, read_json(file), file.string());
  const fs::path generation = directory / "generation_config.json";
  if (fs::exists(generation)) {
    const Json json = read_json(generation);
    add_end_tokens(checkpoint.config, read_end_tokens(JsonObject(json, generation.string())));
  }
  checkpoint.tensors = canonical_tensors(read_safetensors_directory(directory), directory);
  settle_head(checkpoint, written);
  return checkpoint;
}

Checkpoint load_gguf(const fs::path& path) {
  const GgufFile file(path);
  Checkpoint checkpoint;
  checkpoint.source = path;
  const bool written = read_config(checkpoint, hf_config_from_gguf(file), path.string());
  const std::vector<float> factors = inexpressible_rope_factors(file, checkpoint.config);
  for (AttentionType& type : checkpoint.config.attention_types)
    for (std::size_t i = 0; i < factors.size(); i++) type.rope.frequencies[i] /= factors[i];
  checkpoint.tensors = canonical_tensors(file, checkpoint.config);
  settle_head(checkpoint, written);
  return checkpoint;
}

}  // namespace

Checkpoint load_checkpoint(const fs::path& path) {
  if (!fs::exists(path)) fail("{}: no such file or directory", path.string());
  if (!fs::is_directory(path) && !is_gguf(path))
    fail("{}: neither a directory with config.json nor a GGUF file", path.string());
  Checkpoint checkpoint = fs::is_directory(path) ? load_directory(path) : load_gguf(path);
  validate(checkpoint);
  return checkpoint;
}

Checkpoint load_config(const fs::path& path) {
  if (!fs::exists(path)) fail("{}: no such file or directory", path.string());
  Checkpoint checkpoint;
  if (!fs::is_directory(path) && is_gguf(path)) {
    checkpoint = load_gguf(path);
    checkpoint.tensors.clear();
    return checkpoint;
  }
  const fs::path file = fs::is_directory(path) ? path / "config.json" : path;
  checkpoint.source = file.parent_path();
  Json json = read_json(file);
  if (json.is_object() && json.value("model_type", Json()) == "gpt_neox") {
    const HfConfig hf = parse_gpt_neox_sizes(JsonObject(json, file.string()));
    checkpoint.config = hf.config;
    checkpoint.plan = plain_plan(hf.layer_types);
    checkpoint.hf_config = std::move(json);
    return checkpoint;
  }
  read_config(checkpoint, std::move(json), file.string());
  return checkpoint;
}

}  // namespace fathom
