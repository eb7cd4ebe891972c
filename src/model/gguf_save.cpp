#include "model/gguf_save.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "base/error.h"
#include "base/progress.h"
#include "formats/gguf.h"
#include "formats/gguf_write.h"
#include "formats/quantise.h"
#include "model/gguf_names.h"
#include "model/hf_config.h"
#include "model/rope.h"
#include "model/staging.h"
#include "text/tokenizer.h"
#include "text/tokenizer_to_gguf.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr const char* remedy = "export with --to hf, which transformers loads";

/// general.file_type: llama.cpp's number of what most of the file is.
std::int64_t file_type(DType type) {
  static const std::map<DType, std::int64_t> numbers = {
      {DType::f32, 0},   {DType::f16, 1},   {DType::q4_0, 2},  {DType::q4_1, 3},  {DType::q8_0, 7},
      {DType::q5_0, 8},  {DType::q5_1, 9},  {DType::q2_k, 10}, {DType::q3_k, 12}, {DType::q4_k, 14},
      {DType::q5_k, 16}, {DType::q6_k, 18}, {DType::bf16, 32}};
  return numbers.at(type);
}

std::string gguf_architecture(const std::string& architecture) {
  if (architecture == "mistral") return "llama";
  return architecture == "gemma3_text" ? "gemma3" : architecture;
}

bool differ(double a, double b) { return std::abs(a - b) > 1e-5 * std::max(std::abs(a), std::abs(b)); }

/// How often all layers are visited in their order, without adapters; 0 for any other plan.
std::int64_t whole_loops(const DepthPlan& plan) {
  if (plan.layers == 0 || plan.depth() % plan.layers != 0) return 0;
  for (std::int64_t i = 0; i < plan.depth(); ++i) {
    const Visit& visit = plan.visits[static_cast<std::size_t>(i)];
    if (visit.layer != i % plan.layers || visit.adapter >= 0) return 0;
  }
  return plan.depth() / plan.layers;
}

/// Whether llama.cpp's architecture nanbeige, Llama's layers in loops without a norm between them, runs it.
bool is_nanbeige(const Checkpoint& checkpoint) {
  constexpr std::int64_t most_visits = 512;  // LLAMA_MAX_LAYERS
  const ModelConfig& config = checkpoint.config;
  const bool llama = config.architecture == "llama" || config.architecture == "mistral";
  const bool window = config.attention_types.front().window > 0;
  return whole_loops(checkpoint.plan) > 1 && checkpoint.plan.depth() <= most_visits && llama && !window &&
         !config.o_bias && !config.mlp_bias;
}

bool slides(const Checkpoint& checkpoint, const Visit& visit) {
  return checkpoint.config.attention_types[static_cast<std::size_t>(visit.type)].window > 0;
}

/// Keys and tensors of one model.
class GgufModel {
 public:
  GgufModel(const Checkpoint& checkpoint, std::optional<DType> type)
      : checkpoint_(checkpoint),
        config_(checkpoint.config),
        architecture_(is_nanbeige(checkpoint) ? "nanbeige" : gguf_architecture(config_.architecture)),
        type_(type) {
    check();
    add_general();
    add_sizes();
    add_windows();
    add_rope();
    add_tensors();
    add_types();
    metadata_.merge(tokenizer_to_gguf(checkpoint.source, config_.vocab_size));
  }

  const GgufMetadata& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }

 private:
  bool is_llama() const { return architecture_ == "llama" || architecture_ == "nanbeige"; }
  bool has_windows() const { return config_.sandwich_norms; }

  [[noreturn]] void refuse(const std::string& what) const {
    fail("{}: {}, for which GGUF's architecture '{}' has no words: {}", checkpoint_.source.string(), what,
         architecture_, remedy);
  }

  /// What llama.cpp's architectures (src/models/ there) do not have: it would refuse the file, or compute
  /// something else.
  void check() const {
    if (!fits_gguf(checkpoint_)) refuse("the model's plan is " + checkpoint_.plan.describe());
    if (config_.o_bias && !is_llama()) refuse("o_proj has a bias (attention_bias)");
    if (config_.mlp_bias && !is_llama()) refuse("the feed-forward has biases (mlp_bias)");
    if (!config_.tied_embeddings && (architecture_ == "gemma" || architecture_ == "gemma2"))
      refuse("the head is not the embedding (tie_word_embeddings)");
    if (architecture_ == "qwen2" && config_.head_dim * config_.heads != config_.hidden_size)
      refuse(fmt::format("head_dim is {}, not hidden_size / num_attention_heads", config_.head_dim));
    if (config_.activation != (architecture_.starts_with("gemma") ? Activation::gelu_tanh : Activation::silu))
      refuse("the activation (hidden_act) is another than its own");
  }

  void put(const std::string& key, GgufValue value) {
    metadata_[architecture_ + "." + key] = std::move(value);
  }

  void add_general() {
    if (fs::is_regular_file(checkpoint_.source)) {
      static constexpr std::array own = {"general.alignment", "general.file_type",
                                         "general.quantization_version"};
      const GgufFile file(checkpoint_.source);
      for (const auto& [key, value] : file.metadata())
        if (key.starts_with("general.") && std::ranges::find(own, key) == own.end()) metadata_[key] = value;
    } else {
      metadata_["general.type"] = std::string("model");
      metadata_["general.name"] = fs::weakly_canonical(checkpoint_.source).filename().string();
    }
    metadata_["general.architecture"] = architecture_;
  }

  void add_sizes() {
    put("vocab_size", config_.vocab_size);
    put("context_length", config_.max_positions);
    put("embedding_length", config_.hidden_size);
    put("block_count", checkpoint_.plan.layers);
    if (architecture_ == "nanbeige") {
      put("num_loops", whole_loops(checkpoint_.plan));
      put("skip_loop_final_norm", true);
    }
    put("feed_forward_length", config_.intermediate_size);
    put("attention.head_count", config_.heads);
    put("attention.head_count_kv", config_.kv_heads);
    put("attention.key_length", config_.head_dim);
    put("attention.value_length", config_.head_dim);
    put("attention.layer_norm_rms_epsilon", config_.norm_eps);
    if (config_.attention_softcap > 0) put("attn_logit_softcapping", config_.attention_softcap);
    // Gemma 2's caps have defaults where the keys are absent.
    if (config_.logit_softcap > 0 || architecture_ == "gemma2")
      put("final_logit_softcapping", config_.logit_softcap);
    if (architecture_ == "gemma2" && config_.attention_softcap == 0) put("attn_logit_softcapping", 0.0);
  }

  void add_windows() {
    const auto& types = config_.attention_types;
    const auto windowed =
        std::ranges::find_if(types, [](const AttentionType& type) { return type.window > 0; });
    const auto& visits = checkpoint_.plan.visits;
    const bool any =
        std::ranges::any_of(visits, [&](const Visit& visit) { return slides(checkpoint_, visit); });
    if (!has_windows()) {
      if (!any) return;
      if (!is_llama()) refuse(fmt::format("layers have a window (sliding_window {})", windowed->window));
      put("attention.sliding_window", windowed->window);
      print_note(
          fmt::format("llama.cpp does not apply the window of {} tokens (sliding_window): longer texts come "
                      "out otherwise there",
                      windowed->window));
      return;
    }
    if (windowed == types.end()) {
      if (architecture_ == "gemma2") refuse("no layer has a window (sliding_window)");
      return;
    }
    put("attention.sliding_window", windowed->window);
    const std::int64_t period = architecture_ == "gemma2" ? 2 : 6;
    std::vector<std::int64_t> pattern;
    bool usual = true;
    for (const Visit& visit : visits) {
      pattern.push_back(slides(checkpoint_, visit) ? 1 : 0);
      usual = usual && (std::ssize(pattern) % period != 0) == (pattern.back() == 1);
    }
    if (!usual) put("attention.sliding_window_pattern", pattern);
  }

  void add_rope() {
    const JsonObject json(checkpoint_.hf_config, checkpoint_.source.string());
    const bool local = config_.attention_types.front().name == "sliding_attention";
    const RopeSettings rope = rope_settings(json, config_, local);
    const double theta = rope.settings.number_or("rope_theta", rope.defaults.theta);
    put("rope.dimension_count", config_.head_dim);
    put("rope.freq_base", theta);
    if (architecture_ == "gemma3" && config_.attention_types.size() > 1) {
      const RopeSettings own = rope_settings(json, config_, true);
      put("rope.freq_base_swa", own.settings.number_or("rope_theta", own.defaults.theta));
    }
    const std::string type =
        rope.settings.string_or(rope.settings.has("rope_type") ? "rope_type" : "type", "default");
    if (type == "linear") {
      put("rope.scaling.type", type);
      put("rope.scaling.factor", rope.settings.number("factor"));
    } else if (type == "yarn") {
      add_yarn(rope);
    } else {
      add_divisors(theta, type);
    }
  }

  void add_yarn(const RopeSettings& rope) {
    const char* key = "original_max_position_embeddings";
    const std::int64_t original = rope.defaults.original_positions.value_or(
        rope.settings.integer_or(key, rope.defaults.positions, 1, std::int64_t{1} << 26));
    put("rope.scaling.type", std::string("yarn"));
    put("rope.scaling.factor", rope.settings.number_or("factor", static_cast<double>(config_.max_positions) /
                                                                     static_cast<double>(original)));
    put("rope.scaling.original_context_length", original);
    for (const char* beta : {"beta_fast", "beta_slow"})
      if (rope.settings.number_or(beta, 0) != 0)
        put(std::string("rope.scaling.yarn_") + beta, rope.settings.number(beta));
  }

  /// Any other scaling as what each frequency is divided by: Llama 3's, and what GGUF files came with.
  void add_divisors(double theta, const std::string& type) {
    const std::vector<float>& frequencies = config_.attention_types.front().rope.frequencies;
    std::vector<float> divisors = plain_frequencies(theta, config_.head_dim);
    for (std::size_t i = 0; i < divisors.size(); ++i) divisors[i] /= frequencies[i];
    if (std::ranges::all_of(divisors, [](float divisor) { return std::abs(divisor - 1) < 1e-6F; })) return;
    if (!is_llama()) refuse(fmt::format("rotary frequencies are scaled (rope_type {})", type));
    tensors_.push_back({.name = "rope_freqs.weight",
                        .tensor = make_tensor(DType::f32, {std::ssize(divisors)}, divisors),
                        .dtype = DType::f32});
  }

  /// What the scores have to be multiplied by besides what llama.cpp takes: 1 / sqrt(head_dim), but for the
  /// largest Gemmas, which it knows by their number of layers.
  double scale_left() {
    const bool deepest = has_windows() && checkpoint_.plan.layers == (architecture_ == "gemma2" ? 46 : 62);
    const std::int64_t scalar = deepest ? config_.hidden_size / config_.heads : config_.head_dim;
    const double scale = 1 / std::sqrt(static_cast<double>(scalar));
    if (has_windows()) put("attention.scale", scale);  // for readers that need not guess
    if (!differ(config_.attention_scale, scale)) return 1;
    if (!has_windows()) refuse("scores are scaled by another number than 1 / sqrt(head_dim)");
    return config_.attention_scale / scale;
  }

  void add_tensors() {
    add("token_embd.weight", checkpoint_.tensor("model.embed_tokens.weight"), config_.tied_embeddings);
    const double scale = scale_left();
    const std::string scaled = config_.qk_norm ? "self_attn.q_norm" : linear_name(Linear::q);
    for (std::int64_t layer = 0; layer < checkpoint_.plan.layers; ++layer) {
      const auto add_part = [&](const std::string& part, const char* kind, std::int64_t heads) {
        const Tensor* tensor = checkpoint_.find(layer_name(layer, part + kind));
        if (tensor == nullptr) return;
        const bool norm = part.ends_with("norm");
        Tensor out = norm ? gain(*tensor) : *tensor;
        if (scale != 1 && part == scaled) out = times(out, scale);
        add(fmt::format("blk.{}.{}{}", layer, gguf_layer_part(part, config_), kind), std::move(out), false,
            is_llama() ? heads : 0);
      };
      for (const NormInfo& norm : layer_norms(config_)) add_part(norm.name, ".weight", 0);
      for (const Linear linear : all_linears) {
        const std::int64_t heads = linear == Linear::q   ? config_.heads
                                   : linear == Linear::k ? config_.kv_heads
                                                         : 0;
        add_part(linear_name(linear), ".weight", heads);
        add_part(linear_name(linear), ".bias", heads);
      }
    }
    add("output_norm.weight", gain(checkpoint_.tensor("model.norm.weight")));
    if (!config_.tied_embeddings) add("output.weight", checkpoint_.head(), true);
  }

  /// A norm's weight as GGUF has it: the gain itself.
  Tensor gain(Tensor tensor) const {
    if (config_.norm_plus_one) tensor.decoded_offset += 1;
    return tensor;
  }

  static Tensor times(const Tensor& tensor, double factor) {
    std::vector<float> values = decode(tensor);
    for (float& value : values) value = static_cast<float>(value * factor);
    return make_tensor(written_type(tensor.dtype, DType::bf16), tensor.shape, values);
  }

  void add(std::string name, Tensor tensor, bool head = false, std::int64_t heads = 0) {
    const DType dtype = dtype_of(tensor, head, heads);
    tensors_.push_back({std::move(name), std::move(tensor), dtype, heads});
  }

  DType dtype_of(const Tensor& tensor, bool head, std::int64_t heads) const {
    if (tensor.shape.size() == 1) return DType::f32;
    if (!type_) {
      // Blocks stay as they are, where the rows lie as the file wants them.
      const bool as_it_is = is_quantised(tensor.dtype) && tensor.interleaved_heads == heads;
      return as_it_is ? tensor.dtype : written_type(tensor.dtype, DType::bf16);
    }
    // As llama.cpp's quantisation does it: the head keeps more bits, and so do rows that are no whole blocks.
    const bool four_bits = *type_ == DType::q4_0 || *type_ == DType::q4_k;
    for (const DType dtype : {head && four_bits ? DType::q8_0 : *type_, DType::q5_0})
      if (tensor.row_elements() % block_elements(dtype) == 0) return dtype;
    return DType::f16;
  }

  void add_types() {
    std::map<DType, std::int64_t> elements;
    for (const GgufTensor& tensor : tensors_)
      if (tensor.tensor.shape.size() > 1) elements[tensor.dtype] += tensor.tensor.elements();
    const auto most = std::ranges::max_element(elements, {}, [](const auto& entry) { return entry.second; });
    metadata_["general.file_type"] = file_type(type_.value_or(most->first));
    const bool blocks =
        std::ranges::any_of(elements, [](const auto& entry) { return is_quantised(entry.first); });
    if (blocks) metadata_["general.quantization_version"] = std::int64_t{2};
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  std::string architecture_;
  std::optional<DType> type_;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
};

/// The field of the configuration that a file says otherwise than it is; empty if there is none.
std::string first_difference(const Checkpoint& is, const Checkpoint& said) {
  const ModelConfig &a = is.config, &b = said.config;
  if (a.hidden_size != b.hidden_size) return "hidden_size";
  if (a.intermediate_size != b.intermediate_size) return "intermediate_size";
  if (a.vocab_size != b.vocab_size) return "vocab_size";
  if (a.heads != b.heads || a.kv_heads != b.kv_heads) return "num_attention_heads";
  if (a.head_dim != b.head_dim) return "head_dim";
  if (a.max_positions != b.max_positions) return "max_position_embeddings";
  if (differ(a.norm_eps, b.norm_eps)) return "rms_norm_eps";
  if (a.norm_plus_one != b.norm_plus_one || a.sandwich_norms != b.sandwich_norms || a.qk_norm != b.qk_norm)
    return "model_type";
  if (a.qkv_bias != b.qkv_bias || a.o_bias != b.o_bias) return "attention_bias";
  if (a.mlp_bias != b.mlp_bias) return "mlp_bias";
  if (differ(a.attention_softcap, b.attention_softcap)) return "attn_logit_softcapping";
  if (differ(a.logit_softcap, b.logit_softcap)) return "final_logit_softcapping";
  if (differ(a.embedding_scale, b.embedding_scale)) return "model_type";
  if (a.tied_embeddings != b.tied_embeddings) return "tie_word_embeddings";
  if (a.activation != b.activation) return "hidden_act";
  if (is.plan.layers != said.plan.layers || is.plan.depth() != said.plan.depth()) return "num_hidden_layers";
  for (std::size_t i = 0; i < is.plan.visits.size(); ++i) {
    const AttentionType& type = a.attention_types[static_cast<std::size_t>(is.plan.visits[i].type)];
    const AttentionType& other = b.attention_types[static_cast<std::size_t>(said.plan.visits[i].type)];
    if (type.window != other.window) return "sliding_window";
    if (differ(type.rope.attention_factor, other.rope.attention_factor)) return "rope_parameters";
    if (!std::ranges::equal(type.rope.frequencies, other.rope.frequencies,
                            [](float x, float y) { return !differ(x, y); }))
      return "rope_parameters";
  }
  return "";
}

}  // namespace

bool fits_gguf(const Checkpoint& checkpoint) { return checkpoint.plan.is_plain() || is_nanbeige(checkpoint); }

void check_gguf_target(const fs::path& file, bool overwrite) {
  if (file.filename().empty()) fail_usage("the file to write has no name");
  if (!fs::exists(file)) return;
  if (!fs::is_regular_file(file)) fail("{}: is no file, expected the name of a new one", file.string());
  if (!overwrite) fail("{}: is there already; give --overwrite to replace it", file.string());
}

void save_gguf(const Checkpoint& checkpoint, const fs::path& file, bool overwrite,
               std::optional<DType> type) {
  validate(checkpoint);
  check_gguf_target(file, overwrite);
  const GgufModel model(checkpoint, type);
  const fs::path target = fs::absolute(file);
  const Staging staging(target);
  write_gguf(staging.path(), model.metadata(), model.tensors());
  // Reads back what was written: the only proof that the file says what the checkpoint is.
  const std::string difference = first_difference(checkpoint, load_checkpoint(staging.path()));
  if (!difference.empty())
    fail("{}: GGUF has no words for its {}: {}", checkpoint.source.string(), difference, remedy);
  if (has_tokenizer(staging.path())) load_tokenizer(staging.path());
  fs::rename(staging.path(), target);
}

}  // namespace fathom
