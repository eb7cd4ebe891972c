#include "train/model/model.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/file.h"
#include "train/ops/way_back.h"

namespace fathom {
namespace {

at::Tensor to_torch(const Tensor& tensor) {
  std::vector<float> values = decode(tensor);
  return at::from_blob(values.data(), tensor.shape, at::kFloat).clone();
}

Tensor from_torch(const at::Tensor& tensor, DType type) {
  const at::Tensor values = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  const std::span<const float> span(values.data_ptr<float>(), static_cast<std::size_t>(values.numel()));
  return make_tensor(type, values.sizes().vec(), span);
}

}  // namespace

TrainModel::TrainModel(const Checkpoint& checkpoint, const Options& options)
    : config_(checkpoint.config),
      options_(options),
      ops_(fathom::operations(options.device)),
      compute_(options.bf16 ? at::kBFloat16 : at::kFloat) {
  embedding_ = parameter(checkpoint, "model.embed_tokens.weight");
  final_norm_ = parameter(checkpoint, "model.norm.weight");
  head_ = ops_.head(config_.tied_embeddings ? embedding_ : parameter(checkpoint, "lm_head.weight"),
                    options.gradient_checkpointing);
  for (const Visit& visit : checkpoint.plan.visits) blocks_.push_back(block(checkpoint, visit));
}

const Parameter* TrainModel::parameter(const Checkpoint& checkpoint, const std::string& name,
                                       FrozenType frozen) {
  const auto [entry, is_new] = parameters_.try_emplace(name);
  Parameter& result = entry->second;
  if (!is_new) return &result;
  const bool trainable =
      options_.trainable && (*options_.trainable == Trainable::all || name.starts_with("model.adapters."));
  const Tensor& tensor = checkpoint.tensor(name);
  if (!trainable && frozen != FrozenType::full) {
    result.four_bit.emplace(frozen, tensor.rows(), tensor.row_elements(), decode(tensor));
    result.four_bit->move_to(ops_.device());
    release_pages(tensor.data);
    return &result;
  }
  const at::Tensor values = to_torch(tensor);
  release_pages(tensor.data);
  if (trainable) {
    result.values = values.to(ops_.device());
    result.gradient = at::zeros_like(result.values);
    result.values.set_requires_grad(true);
  } else {
    result.values = values.to(ops_.device(), values.dim() == 1 ? at::kFloat : compute_);
  }
  return &result;
}

const LinearGroup* TrainModel::group(const std::string& name, std::vector<const Parameter*> weights,
                                     std::vector<const Parameter*> biases) {
  std::unique_ptr<LinearGroup>& result = groups_[name];
  if (!result)
    result = ops_.linear_group(std::move(weights), std::move(biases), options_.gradient_checkpointing);
  return result.get();
}

const LinearGroup* TrainModel::layer_group(const Checkpoint& checkpoint, std::int64_t layer,
                                           const std::vector<Linear>& linears) {
  std::vector<const Parameter*> weights, biases;
  for (const Linear linear : linears) {
    const std::string name = layer_name(layer, linear_name(linear));
    weights.push_back(parameter(checkpoint, name + ".weight", options_.frozen));
    biases.push_back(has_bias(config_, linear) ? parameter(checkpoint, name + ".bias") : nullptr);
  }
  return group(layer_name(layer, linear_name(linears.front())), std::move(weights), std::move(biases));
}

TrainModel::LowRank TrainModel::low_rank(const Checkpoint& checkpoint, std::int64_t adapter, Linear linear) {
  const std::string name = linear_name(linear);
  if (adapter < 0 || checkpoint.adapter_tensor(adapter, name + ".lora_A.weight") == nullptr) return {};
  const auto one = [&](const std::string& weight, const Parameter* bias) {
    const std::string full = adapter_name(adapter, weight);
    return group(full, {parameter(checkpoint, full)}, {bias});
  };
  const std::string bias = name + ".lora_B.bias";
  const bool biased = checkpoint.adapter_tensor(adapter, bias) != nullptr;
  return {
      one(name + ".lora_A.weight", nullptr),
      one(name + ".lora_B.weight", biased ? parameter(checkpoint, adapter_name(adapter, bias)) : nullptr)};
}

TrainModel::Block TrainModel::block(const Checkpoint& checkpoint, const Visit& visit) {
  Block result;
  result.type = visit.type;
  result.trains = options_.trainable == Trainable::all || visit.adapter >= 0;
  result.qkv = layer_group(checkpoint, visit.layer, {Linear::q, Linear::k, Linear::v});
  result.o = layer_group(checkpoint, visit.layer, {Linear::o});
  result.gate_up = layer_group(checkpoint, visit.layer, {Linear::gate, Linear::up});
  result.down = layer_group(checkpoint, visit.layer, {Linear::down});
  for (const Linear linear : all_linears) {
    result.pairs[static_cast<int>(linear)] = low_rank(checkpoint, visit.adapter, linear);
  }
  const auto norm = [&](const char* name) {
    const std::string weight = std::string(name) + ".weight";
    const bool own = visit.adapter >= 0 && checkpoint.adapter_tensor(visit.adapter, weight) != nullptr;
    return parameter(checkpoint, own ? adapter_name(visit.adapter, weight) : layer_name(visit.layer, weight));
  };
  result.input_norm = norm("input_layernorm");
  if (config_.qk_norm) {
    result.q_norm = norm("self_attn.q_norm");
    result.k_norm = norm("self_attn.k_norm");
  }
  if (config_.sandwich_norms) {
    result.attention_norm = norm("post_attention_layernorm");
    result.ffn_norm = norm("pre_feedforward_layernorm");
    result.ffn_out_norm = norm("post_feedforward_layernorm");
  } else {
    result.ffn_norm = norm("post_attention_layernorm");
  }
  return result;
}

/// What the visit's pair adds to the layer's outputs; undefined if it has none.
at::Tensor TrainModel::low_rank(const Block& block, Linear which, const at::Tensor& x) const {
  const LowRank& pair = block.pairs[static_cast<int>(which)];
  if (pair.a == nullptr) return {};
  at::Tensor low = linear(x, *pair.a);
  if (options_.adapter_scale != 1) low = low * options_.adapter_scale;
  return linear(low, *pair.b);
}

at::Tensor TrainModel::apply(const Block& block, const LinearGroup& group, const std::vector<Linear>& linears,
                             const at::Tensor& x) const {
  at::Tensor y = linear(x, group);
  std::int64_t first = 0;
  for (const Linear linear : linears) {
    const std::int64_t width = out_features(config_, linear);
    const at::Tensor more = low_rank(block, linear, x);
    if (more.defined()) y = y + at::constant_pad_nd(more, {first, y.size(1) - first - width});
    first += width;
  }
  return y;
}

/// h + the layer's update, which is normed before where the model has such norms.
at::Tensor TrainModel::add(const Block& block, const LinearGroup& group, Linear linear,
                           const Parameter* post_norm, const at::Tensor& x, const at::Tensor& h) const {
  if (post_norm != nullptr) return h + norm(*post_norm, apply(block, group, {linear}, x));
  const at::Tensor more = low_rank(block, linear, x), sum = add_linear(h, x, group);
  return more.defined() ? sum + more : sum;
}

at::Tensor TrainModel::norm(const Parameter& gain, const at::Tensor& x) const {
  return ops_.rms_norm(x, gain, config_.norm_plus_one, config_.norm_eps, compute_);
}

Operations::Normed TrainModel::norm_stream(const Parameter& gain, const at::Tensor& h) const {
  return ops_.norm_stream(h, gain, config_.norm_plus_one, config_.norm_eps, compute_);
}

at::Tensor TrainModel::norm_heads(const Block& block, const at::Tensor& qkv) const {
  if (block.q_norm == nullptr) return qkv;
  const std::int64_t q_width = config_.heads * config_.head_dim,
                     kv_width = config_.kv_heads * config_.head_dim;
  const auto parts = qkv.split_with_sizes({q_width, kv_width, kv_width}, 1);
  return at::cat(
      {norm(*block.q_norm, parts[0].contiguous()), norm(*block.k_norm, parts[1].contiguous()), parts[2]}, 1);
}

at::Tensor TrainModel::attention(const Block& block, const at::Tensor& h) const {
  const auto [x, stream] = norm_stream(*block.input_norm, h);
  at::Tensor qkv = norm_heads(block, apply(block, *block.qkv, {Linear::q, Linear::k, Linear::v}, x));
  const Angles& angles = angles_[block.type];
  qkv = ops_.rotary(qkv, angles.cosines, angles.sines, config_.heads + config_.kv_heads);
  const AttentionForm form{.heads = config_.heads,
                           .kv_heads = config_.kv_heads,
                           .head_dim = config_.head_dim,
                           .positions = positions_,
                           .scale = config_.attention_scale,
                           .window = config_.attention_types[block.type].window,
                           .softcap = config_.attention_softcap};
  return add(block, *block.o, Linear::o, block.attention_norm, ops_.attend(qkv, form), stream);
}

at::Tensor TrainModel::feed_forward(const Block& block, const at::Tensor& h) const {
  const auto [x, stream] = norm_stream(*block.ffn_norm, h);
  const at::Tensor gate_up = apply(block, *block.gate_up, {Linear::gate, Linear::up}, x);
  return add(block, *block.down, Linear::down, block.ffn_out_norm, ops_.gate(gate_up, config_.activation),
             stream);
}

at::Tensor TrainModel::visit(const Block& block, const at::Tensor& h) const {
  return feed_forward(block, attention(block, h));
}

/// Keeps the visit's input alone, and computes the visit again in the way back. In float32, as it is: rounded
/// to bfloat16 it would take half of the memory, and the gradients would be those of another input.
at::Tensor TrainModel::checkpointed_visit(const Block& block, const at::Tensor& h) {
  at::Tensor y;
  {
    const at::NoGradGuard no_grad;
    y = visit(block, h);
  }
  // What the visit trains makes its result part of the way back, whether or not anything before it is.
  if (block.trains && !h.requires_grad()) h.set_requires_grad(true);
  return with_way_back(y, {h}, [this, &block, h = h.detach(), positions = positions_](const at::Tensor& dy) {
    const at::AutoGradMode with_gradients(true);
    make_angles(positions);
    h.set_requires_grad(true);
    visit(block, h).backward(dy);
    return std::vector<at::Tensor>{h.grad()};
  });
}

void TrainModel::make_angles(std::int64_t positions) {
  if (positions == positions_) return;
  positions_ = positions;
  angles_.clear();
  const at::Tensor steps = at::arange(positions, at::device(ops_.device()).dtype(at::kFloat));
  for (const AttentionType& type : config_.attention_types) {
    const at::Tensor frequencies = at::tensor(at::ArrayRef<float>(type.rope.frequencies), at::kFloat);
    const at::Tensor turns = at::outer(steps, frequencies.to(ops_.device()));
    angles_.push_back({turns.cos() * type.rope.attention_factor, turns.sin() * type.rope.attention_factor});
  }
}

/// The gradient of what visit `visit` reads is there once those of all that was computed from it are.
void TrainModel::watch(const at::Tensor& h, std::size_t visit) {
  if (!on_complete_ || !h.requires_grad()) return;
  on_the_way_.resize(blocks_.size());
  ++on_the_way_[visit];
  h.register_hook([this, visit](const at::Tensor&) {
    if (--on_the_way_[visit] == 0) on_complete_(static_cast<std::int64_t>(visit));
  });
}

std::vector<at::Tensor> TrainModel::streams(const at::Tensor& ids, std::span<const std::int64_t> visits,
                                            const KeptSequences& kept) {
  make_angles(ids.size(1));
  std::vector<at::Tensor> result;
  before_visit_(0);
  at::Tensor h = ops_.embed(ids.reshape(-1), *embedding_, config_.embedding_scale);
  const bool checkpoints = options_.gradient_checkpointing && at::GradMode::is_enabled();
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    before_visit_(static_cast<std::int64_t>(i));
    watch(h, i);
    const auto run = [&, &block = blocks_[i]](const at::Tensor& x) {
      return checkpoints ? checkpointed_visit(block, x) : visit(block, x);
    };
    h = kept.empty() ? run(h) : on_kept(h, positions_, kept[i], run);
    if (std::ranges::find(visits, static_cast<std::int64_t>(i)) != visits.end()) result.push_back(h);
  }
  return result;
}

at::Tensor TrainModel::forward(const at::Tensor& ids) {
  const std::int64_t last = depth() - 1;
  return final_norm(streams(ids, {&last, 1}).front());
}

void TrainModel::drop_gradients() {
  wait_for_update();
  for (auto& [name, parameter] : parameters_) {
    if (parameter.trainable()) parameter.gradient.set_data(at::empty({0}, parameter.gradient.options()));
  }
}

Checkpoint TrainModel::trained(const Checkpoint& original) const {
  wait_for_update();
  Checkpoint result = original;
  result.exits.clear();  // what exits have was fitted to the weights that were
  for (const auto& [name, parameter] : parameters_) {
    if (!parameter.trainable()) continue;
    Tensor& target = result.tensors.at(name);
    const bool scaled = options_.adapter_scale != 1 && name.ends_with("lora_B.weight");
    const at::Tensor values = parameter.values.detach();
    target = from_torch(scaled ? values * options_.adapter_scale : values,
                        written_type(target.dtype, DType::bf16) == DType::f32 ? DType::f32 : DType::bf16);
  }
  return result;
}

}  // namespace fathom
