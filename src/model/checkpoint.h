// A model as a value: configuration, depth plan and tensors (views into mapped files). What every verb reads
// and writes.
//
// Tensor names are canonical, Hugging Face's. K is a layer, A an adapter, NAME as in "self_attn.q_proj":
//   model.embed_tokens.weight, model.norm.weight, lm_head.weight
//   model.layers.K.NAME.weight, .bias
//   model.adapters.A.NAME.lora_A.weight   [rank, in], the first of a low-rank pair: y += B (A x)
//   model.adapters.A.NAME.lora_B.weight   [out, rank]
//   model.adapters.A.NAME.lora_B.bias     [out], added with the pair (optional)
//   model.adapters.A.NORM.weight          a norm of that visit's own, in place of the layer's
// A pair may be missing (that matrix is not relaxed) and ranks may differ by matrix.
//
// What exits have of their own lies apart, in `exits` and in a file of its own, since full depth knows
// nothing of it. V is the visit after which the exit is; h the state there, divided by its root mean square:
//   model.exits.V.translator.weight, .bias  [hidden, hidden], [hidden]: the head reads h + weight h + bias
//   model.exits.V.translator.lora_A.weight, .lora_B.weight  in place of weight, of low rank
//   model.exits.V.gate.weight, .bias        [1, hidden], [1]: sigmoid(weight h + bias) is how probable it is
//                                           that the last visit's most probable token is the exit's
//   model.exits.shortlist                   [tokens] that exits choose from, ascending
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "formats/safetensors.h"
#include "model/config.h"
#include "model/depth_plan.h"

namespace fathom {

struct Checkpoint {
  std::filesystem::path source;  ///< directory or GGUF file it was read from; also where its tokenizer lies
  ModelConfig config;
  DepthPlan plan;
  TensorMap tensors;  ///< canonical names; complete and of the right shapes once loaded or validated
  TensorMap exits;    ///< of exits, if any; who changes layers empties it: it was fitted to what they were
  /// Canonical names that files have and `tensors` has not, and why ("is of type I64, ..."): for messages.
  std::map<std::string, std::string, std::less<>> left_out;
  Json hf_config;  ///< config.json as read (or made from GGUF), without `fathom`: what is not ours is written
                   ///< back
  Json provenance;  ///< fathom.provenance: a list of {command, from, measurements}, oldest first

  const Tensor& tensor(const std::string& name) const;  ///< throws Error naming file and tensor
  const Tensor* find(const std::string& name) const;    ///< nullptr when absent
  const Tensor& layer_tensor(std::int64_t layer,
                             const std::string& name) const;  ///< name as "self_attn.q_proj.weight"
  const Tensor* adapter_tensor(std::int64_t adapter, const std::string& name) const;
  const Tensor& head() const;  ///< lm_head.weight, or the embedding when tied
  const Tensor* exit_tensor(std::int64_t visit, const std::string& name) const;  ///< as "gate.weight"
  /// The tokens of model.exits.shortlist; none where there is none.
  std::vector<std::int64_t> shortlist() const;
};

std::string layer_name(std::int64_t layer, const std::string& name);      ///< "model.layers.3." + name
std::string adapter_name(std::int64_t adapter, const std::string& name);  ///< "model.adapters.3." + name
std::string exit_name(std::int64_t visit, const std::string& name);       ///< "model.exits.3." + name
inline constexpr std::string_view shortlist_name = "model.exits.shortlist";
inline constexpr const char* exits_file = "exits.safetensors";  ///< in a model's directory

/// Reads a Hugging Face or Fathom directory or a GGUF file. Nothing is copied: tensors are views. Every
/// tensor that the plan needs must be there with the right shape; an architecture or option that Fathom does
/// not run is refused by name. Whether the head is the embedding and whether there are biases is what the
/// tensors say; a bias that only some layers or maps have is zero in the others that the configuration speaks
/// of together. Throws Error naming the file and the field.
Checkpoint load_checkpoint(const std::filesystem::path& path);

/// Only the configuration and the plan (for `inspect` on a config.json alone): no tensor is looked at. `path`
/// may also be a config.json itself. Of GPT-NeoX it gives the sizes that relaxed_parameters needs, and no
/// more: load_checkpoint refuses it.
Checkpoint load_config(const std::filesystem::path& path);

/// Checks tensors against configuration and plan, as load_checkpoint does. For checkpoints that were built in
/// memory.
void validate(const Checkpoint& checkpoint);

/// Writes a Fathom directory: config.json, generation_config.json, model.safetensors (several, with an index,
/// where one would exceed `shard_bytes`), tokenizer.json and companions. A plain plan gives exactly what
/// transformers loads (num_hidden_layers, layer_types, max_window_layers, ... consistent); any other plan is
/// written with model_type "fathom", so that other tools refuse it by name instead of running it wrongly.
/// What exits have of their own becomes exits.safetensors, which other tools do not read. `directory` must be
/// new or empty, or hold an earlier model if `overwrite`: then the model's files are replaced and others
/// stay. It appears as a whole or not at all. Unquantised tensors keep their type; others are decoded
/// (written_type in formats/tensor.h). Throws Error; also when config.json cannot say what the configuration
/// is (rotary factors of a GGUF file that belong to no known scaling), or a weight is not a finite number.
void save_checkpoint(const Checkpoint& checkpoint, const std::filesystem::path& directory,
                     bool overwrite = false, DType decoded_as = DType::bf16,
                     std::int64_t shard_bytes = 5'000'000'000);

/// The check that save_checkpoint begins with, for those who work long before they save: throws Error when
/// `directory` may not be written.
void check_save_target(const std::filesystem::path& directory, bool overwrite);

/// What `inspect` shows and `--target` counts.
struct ParameterCount {
  std::int64_t embedding = 0;  ///< embedding matrix and, when untied, the head
  std::int64_t layers = 0;     ///< unique layers' weights, norms and biases, and the final norm
  std::int64_t adapters = 0;
  std::int64_t exits = 0;     ///< translators and gates, which are no part of full depth
  std::int64_t bytes = 0;     ///< as stored; 0 when only the configuration is known
  std::int64_t unrolled = 0;  ///< non-embedding parameters that one token passes through
  std::int64_t non_embedding() const { return layers + adapters; }
};
ParameterCount count_parameters(const Checkpoint& checkpoint);

/// Parameters that run at one visit: its layer's and its adapter's.
std::int64_t visit_parameters(const Checkpoint& checkpoint, const Visit& visit);

/// Non-embedding parameters of the relaxed recursive model with `unique` layers of `depth` visits and LoRA of
/// `rank` (clipped to each matrix) at each visit, without norms: the counts of Bae et al. (arXiv 2410.20672,
/// tables 2 and F). From the configuration alone.
std::int64_t relaxed_parameters(const ModelConfig& config, std::int64_t unique, std::int64_t depth,
                                std::int64_t rank);

}  // namespace fathom
