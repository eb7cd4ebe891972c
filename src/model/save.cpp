// Checkpoints to directories.
#include <algorithm>
#include <array>
#include <set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "formats/safetensors.h"
#include "model/checkpoint.h"
#include "model/hf_config.h"
#include "model/staging.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

std::int64_t stored_bytes(const Tensor& tensor, DType decoded_as) {
  return tensor.elements() * block_bytes(written_type(tensor.dtype, decoded_as));
}

/// The type that transformers loads all weights in: that of the matrices, or float32 where they differ.
const char* torch_type(const Checkpoint& checkpoint, DType decoded_as) {
  std::set<DType> types;
  for (const auto& [name, tensor] : checkpoint.tensors)
    if (tensor.shape.size() == 2) types.insert(written_type(tensor.dtype, decoded_as));
  if (types.size() != 1 || types.count(DType::f32) != 0) return "float32";
  return types.count(DType::f16) != 0 ? "float16" : "bfloat16";
}

Json saved_config(const Checkpoint& checkpoint, DType decoded_as) {
  const std::string& architecture = checkpoint.config.architecture;
  const DepthPlan& plan = checkpoint.plan;
  const bool plain = plan.is_plain();
  Json json = checkpoint.hf_config;
  json.erase("auto_map");  // names Python files that are not written with it
  json["architectures"] = Json::array({plain ? causal_lm_class(architecture) : "FathomForCausalLM"});
  json["model_type"] = plain ? architecture : "fathom";
  json["tie_word_embeddings"] = checkpoint.config.tied_embeddings;
  json[json.contains("torch_dtype") ? "torch_dtype" : "dtype"] = torch_type(checkpoint, decoded_as);
  if (plain) {
    std::vector<std::int64_t> types;
    for (const Visit& visit : plan.visits) types.push_back(visit.type);
    write_layer_types(json, checkpoint.config, types);
  } else {
    json["num_hidden_layers"] = plan.layers;
    json.erase("layer_types");  // the plan has a type for every visit
  }

  Json fathom = Json::object();
  if (!plain) fathom["base_model_type"] = architecture;
  const bool exits =
      std::any_of(plan.visits.begin(), plan.visits.end(), [](const Visit& visit) { return visit.exit; });
  if (!plain || exits) fathom["plan"] = to_json(plan);
  if (!checkpoint.provenance.empty()) fathom["provenance"] = checkpoint.provenance;
  if (!fathom.empty()) json["fathom"] = std::move(fathom);
  return json;
}

/// Reads back what was written: the only proof that the file says what the checkpoint is.
void check_config(const Checkpoint& checkpoint, const fs::path& directory) {
  Checkpoint written = load_config(directory);
  written.config.end_tokens = checkpoint.config.end_tokens;  // in generation_config.json, too
  for (std::size_t i = 0; i < checkpoint.config.attention_types.size(); i++) {
    const bool there = i < written.config.attention_types.size();
    if (!there || !(written.config.attention_types[i] == checkpoint.config.attention_types[i]))
      fail(
          "{}: cannot be saved: config.json has no words for its '{}' (window {}, rotary frequencies of a "
          "scaling "
          "that is none of transformers')",
          checkpoint.source.string(), checkpoint.config.attention_types[i].name,
          checkpoint.config.attention_types[i].window);
  }
  if (!(written.config == checkpoint.config) || !(written.plan == checkpoint.plan))
    fail("{}: cannot be saved: its configuration or plan differs from what config.json would say",
         checkpoint.source.string());
}

void write_generation_config(const Checkpoint& checkpoint, const fs::path& directory) {
  const fs::path original = checkpoint.source / "generation_config.json";
  const fs::path copy = directory / "generation_config.json";
  if (fs::exists(original)) {
    write_file(copy, read_file(original));
  } else if (!checkpoint.config.end_tokens.empty()) {
    Json json{{"eos_token_id", checkpoint.config.end_tokens}};
    if (checkpoint.hf_config.contains("bos_token_id"))
      json["bos_token_id"] = checkpoint.hf_config["bos_token_id"];
    write_file(copy, json.dump(2) + "\n");
  }
}

std::vector<NamedTensors> split(const Checkpoint& checkpoint, DType decoded_as, std::int64_t shard_bytes) {
  std::vector<NamedTensors> shards(1);
  std::int64_t filled = 0;
  for (const auto& [name, tensor] : checkpoint.tensors) {
    const std::int64_t bytes = stored_bytes(tensor, decoded_as);
    if (!shards.back().empty() && filled + bytes > shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().emplace_back(name, tensor);
    filled += bytes;
  }
  return shards;
}

void write_weights(const Checkpoint& checkpoint, const fs::path& directory, DType decoded_as,
                   std::int64_t shard_bytes) {
  const std::vector<NamedTensors> shards = split(checkpoint, decoded_as, shard_bytes);
  if (shards.size() == 1) return write_safetensors(directory / "model.safetensors", shards[0], decoded_as);
  Json map = Json::object();
  std::int64_t total = 0;
  for (std::size_t i = 0; i < shards.size(); i++) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(directory / name, shards[i], decoded_as);
    for (const auto& [tensor_name, tensor] : shards[i]) {
      map[tensor_name] = name;
      total += stored_bytes(tensor, decoded_as);
    }
  }
  const Json index{{"metadata", {{"total_size", total}}}, {"weight_map", std::move(map)}};
  write_file(directory / "model.safetensors.index.json", index.dump(2) + "\n");
}

/// Files that a model consists of: those that a new model in the same directory replaces.
bool is_model_file(const fs::path& path) {
  static constexpr std::array names = {"config.json", "generation_config.json",
                                       "model.safetensors.index.json"};
  const std::string name = path.filename().string();
  return std::ranges::find(names, name) != names.end() ||
         std::ranges::find(tokenizer_files(), name) != tokenizer_files().end() ||
         name.ends_with(".safetensors");
}

/// Puts the staged directory in the target's place. What lay there and belongs to no model moves along.
void replace(const fs::path& staged, const fs::path& target) {
  if (!fs::exists(target)) return fs::rename(staged, target);
  const fs::path old = hidden_sibling(target, "old");
  fs::remove_all(old);
  fs::rename(target, old);
  fs::rename(staged, target);
  for (const auto& entry : fs::directory_iterator(old))
    if (!is_model_file(entry.path())) fs::rename(entry.path(), target / entry.path().filename());
  fs::remove_all(old);
}

}  // namespace

void check_save_target(const fs::path& directory, bool overwrite) {
  if (directory.empty()) fail_usage("the directory to write has no name");
  if (!fs::exists(directory)) return;
  if (!fs::is_directory(directory)) fail("{}: is a file, expected a new directory", directory.string());
  if (fs::is_empty(directory)) return;
  if (!fs::exists(directory / "config.json"))
    fail("{}: holds other files than a model's; take a new or empty directory", directory.string());
  if (!overwrite) fail("{}: holds a model already; give --overwrite to replace it", directory.string());
}

void save_checkpoint(const Checkpoint& checkpoint, const fs::path& directory, bool overwrite,
                     DType decoded_as, std::int64_t shard_bytes) {
  validate(checkpoint);
  fs::path target = fs::absolute(directory).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();  // "out/" is "out"
  // Of several processes that save there at once, each finds what the one before has left.
  const auto lock = wait_for_lock(target.parent_path() / fmt::format(".{}.lock", target.filename().string()));
  check_save_target(target, overwrite);
  try {
    const Staging staging(target);
    fs::create_directories(staging.path());
    const Json config = saved_config(checkpoint, decoded_as);
    write_file(staging.path() / "config.json",
               config.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
    check_config(checkpoint, staging.path());
    write_generation_config(checkpoint, staging.path());
    save_tokenizer(checkpoint.source, staging.path());
    write_weights(checkpoint, staging.path(), decoded_as, shard_bytes);
    if (!checkpoint.exits.empty())
      write_safetensors(staging.path() / exits_file,
                        NamedTensors(checkpoint.exits.begin(), checkpoint.exits.end()), decoded_as);
    replace(staging.path(), target);
  } catch (const fs::filesystem_error& e) {
    fail("{}: cannot write the model: {}", directory.string(), e.code().message());
  }
}

}  // namespace fathom
