// Directories and GGUF files to checkpoints.
#include <algorithm>
#include <initializer_list>
#include <utility>

#include "base/error.h"
#include "formats/gguf.h"
#include "model/checkpoint.h"
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/tensor_names.h"

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

bool has_bias_of(const TensorMap& tensors, std::initializer_list<Linear> linears) {
  return std::ranges::any_of(tensors, [&](const auto& entry) {
    return entry.first.starts_with("model.layers.") && std::ranges::any_of(linears, [&](Linear linear) {
             return entry.first.ends_with(std::string(linear_name(linear)) + ".bias");
           });
  });
}

/// Fills configuration, plan and provenance from the content of a config.json; tensors that have been read
/// say whether there are biases. Returns whether tie_word_embeddings was written.
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
  if (!checkpoint.tensors.empty())
    write_biases(hf_json, has_bias_of(checkpoint.tensors, {Linear::q, Linear::k, Linear::v, Linear::o}),
                 has_bias_of(checkpoint.tensors, {Linear::gate, Linear::up, Linear::down}));
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

/// Takes the tensors under canonical names.
void take_tensors(Checkpoint& checkpoint, const SafetensorsContent& content) {
  const TensorNames names(content);
  for (const auto& [name, tensor] : content.tensors) {
    const auto canonical = names.canonical(name);
    if (!canonical) continue;
    if (!checkpoint.tensors.emplace(*canonical, tensor).second)
      fail("{}: tensor '{}' is there twice, under two names", checkpoint.source.string(), *canonical);
  }
  for (const auto& [name, reason] : content.left_out)
    if (const auto canonical = names.canonical(name)) checkpoint.left_out.emplace(*canonical, reason);
}

bool same_values(const Tensor& a, const Tensor& b) {
  if (a.shape != b.shape) return false;
  if (a.dtype == b.dtype && a.is_plain() && b.is_plain()) return std::ranges::equal(a.data, b.data);
  return decode(a) == decode(b);
}

/// Whether the head is the embedding matrix. A configuration that says so is believed, as by transformers,
/// where only one of the two is there or both are the same: a head of its own is the file's word against it.
/// One that is silent means so where there is no head.
void settle_head(Checkpoint& checkpoint, bool written) {
  const auto head = checkpoint.tensors.find("lm_head.weight");
  bool& tied = checkpoint.config.tied_embeddings;
  if (head == checkpoint.tensors.end()) {
    tied = tied || !written;
    return;
  }
  if (!tied) return;
  const auto [embedding, absent] = checkpoint.tensors.try_emplace("model.embed_tokens.weight", head->second);
  tied = absent || same_values(embedding->second, head->second);
  if (tied) checkpoint.tensors.erase(head);
}

/// A bias that a layer lacks where its like have one is zero, which no configuration could say otherwise:
/// Llama's speaks of q, k, v and o together.
void add_absent_biases(Checkpoint& checkpoint) {
  for (const Linear linear : all_linears) {
    if (!has_bias(checkpoint.config, linear)) continue;
    const std::int64_t width = out_features(checkpoint.config, linear);
    const std::vector<float> values(static_cast<std::size_t>(width));
    const Tensor zeros = make_tensor(DType::f32, {width}, values);
    for (std::int64_t layer = 0; layer < checkpoint.plan.layers; layer++) {
      const std::string name = layer_name(layer, std::string(linear_name(linear)) + ".bias");
      if (!checkpoint.left_out.contains(name)) checkpoint.tensors.try_emplace(name, zeros);
    }
  }
}

Checkpoint load_directory(const fs::path& directory) {
  Checkpoint checkpoint;
  checkpoint.source = directory;
  const fs::path file = directory / "config.json";
  Json json = read_json(file);
  take_tensors(checkpoint, read_safetensors_directory(directory));
  if (fs::exists(directory / exits_file)) checkpoint.exits = read_safetensors(directory / exits_file);
  const bool written = read_config(checkpoint, std::move(json), file.string());
  const fs::path generation = directory / "generation_config.json";
  if (fs::exists(generation)) {
    const Json defaults = read_json(generation);
    add_end_tokens(checkpoint.config, read_end_tokens(JsonObject(defaults, generation.string())));
  }
  settle_head(checkpoint, written);
  add_absent_biases(checkpoint);
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
  add_absent_biases(checkpoint);
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
