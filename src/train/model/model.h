// The forward pass that is trained: driven by ModelConfig and DepthPlan as the runtime's is, and a second
// implementation of it. Tied layers share their parameters whatever the number of visits.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/checkpoint.h"
#include "train/model/layer_dropout.h"
#include "train/ops/head_loss.h"
#include "train/ops/linear.h"
#include "train/ops/ops.h"
#include "train/train.h"

namespace fathom {

class TrainModel {
 public:
  struct Options {
    bool bf16 = false;  ///< compute type; float32 otherwise
    /// `lora` is `adapters` here: with_lora has added them. Nothing: a teacher.
    std::optional<Trainable> trainable = Trainable::all;
    double adapter_scale = 1;              ///< multiplies every pair's output (LoRA's alpha / rank)
    FrozenType frozen = FrozenType::full;  ///< of layers' matrices that are not trained
    bool gradient_checkpointing = false;   ///< TrainOptions
    Device device = Device::cpu;           ///< not `automatic`
  };

  TrainModel(const Checkpoint& checkpoint, const Options& options);

  /// ids [batch, positions] (int64) to the hidden states after the final norm, [batch * positions, hidden].
  at::Tensor forward(const at::Tensor& ids);
  /// The residual streams after `visits` (ascending), [batch * positions, hidden] each, float32. A visit that
  /// keeps some sequences of the batch only leaves the others' as they are.
  std::vector<at::Tensor> streams(const at::Tensor& ids, std::span<const std::int64_t> visits,
                                  const KeptSequences& kept = {});
  /// What the head reads of a residual stream.
  at::Tensor final_norm(const at::Tensor& stream) const { return norm(*final_norm_, stream); }

  const Operations& operations() const { return ops_; }
  const ModelConfig& config() const { return config_; }
  std::int64_t depth() const { return std::ssize(blocks_); }
  Head& head() { return *head_; }
  /// Called with v before any value is read that visit v or one before it reads, or that lies outside of the
  /// layers.
  void before_visit(std::function<void(std::int64_t visit)> call) { before_visit_ = std::move(call); }
  /// No value or gradient is in use by an update any more when this returns.
  void wait_for_update() const { before_visit_(depth() - 1); }
  /// In each backward pass, called with v as soon as the gradients of visit v and of all after it are
  /// complete (not for visits that need none).
  void on_complete(std::function<void(std::int64_t visit)> call) { on_complete_ = std::move(call); }
  /// By canonical name.
  std::map<std::string, Parameter>& parameters() { return parameters_; }
  const std::map<std::string, Parameter>& parameters() const { return parameters_; }

  /// Gives back the gradients' memory: nothing is trained from here on.
  void drop_gradients();

  /// The checkpoint with the trained values in it, frozen tensors as they were. Float32 tensors stay float32,
  /// all others become bfloat16. Adapters' B are multiplied by adapter_scale.
  Checkpoint trained(const Checkpoint& original) const;

 private:
  /// y += B (A x)
  struct LowRank {
    const LinearGroup *a = nullptr, *b = nullptr;
  };
  struct Block {
    const LinearGroup *qkv = nullptr, *o = nullptr, *gate_up = nullptr, *down = nullptr;
    LowRank pairs[std::size(all_linears)];
    const Parameter *input_norm = nullptr, *q_norm = nullptr, *k_norm = nullptr;
    const Parameter* attention_norm = nullptr;  ///< after attention (sandwich)
    const Parameter *ffn_norm = nullptr, *ffn_out_norm = nullptr;
    std::int64_t type = 0;
    bool trains = false;  ///< holds something that is trained
  };
  struct Angles {
    at::Tensor cosines, sines;
  };

  const Parameter* parameter(const Checkpoint& checkpoint, const std::string& name,
                             FrozenType frozen = FrozenType::full);
  /// The group of these layers, made at its first use: a layer that is visited again is packed once.
  const LinearGroup* group(const std::string& name, std::vector<const Parameter*> weights,
                           std::vector<const Parameter*> biases);
  const LinearGroup* layer_group(const Checkpoint& checkpoint, std::int64_t layer,
                                 const std::vector<Linear>& linears);
  LowRank low_rank(const Checkpoint& checkpoint, std::int64_t adapter, Linear linear);
  Block block(const Checkpoint& checkpoint, const Visit& visit);
  at::Tensor low_rank(const Block& block, Linear linear, const at::Tensor& x) const;
  at::Tensor apply(const Block& block, const LinearGroup& group, const std::vector<Linear>& linears,
                   const at::Tensor& x) const;
  at::Tensor add(const Block& block, const LinearGroup& group, Linear linear, const Parameter* post_norm,
                 const at::Tensor& x, const at::Tensor& h) const;
  at::Tensor norm(const Parameter& gain, const at::Tensor& x) const;
  Operations::Normed norm_stream(const Parameter& gain, const at::Tensor& h) const;
  at::Tensor norm_heads(const Block& block, const at::Tensor& qkv) const;
  at::Tensor attention(const Block& block, const at::Tensor& h) const;
  at::Tensor feed_forward(const Block& block, const at::Tensor& h) const;
  at::Tensor visit(const Block& block, const at::Tensor& h) const;
  at::Tensor checkpointed_visit(const Block& block, const at::Tensor& h);
  void make_angles(std::int64_t positions);
  void watch(const at::Tensor& h, std::size_t visit);

  ModelConfig config_;
  Options options_;
  const Operations& ops_;
  at::ScalarType compute_;
  std::map<std::string, Parameter> parameters_;
  std::map<std::string, std::unique_ptr<LinearGroup>> groups_;
  const Parameter *embedding_ = nullptr, *final_norm_ = nullptr;
  std::unique_ptr<Head> head_;
  std::vector<Block> blocks_;
  std::function<void(std::int64_t)> before_visit_ = [](std::int64_t) {}, on_complete_;
  std::vector<int> on_the_way_;  ///< by visit: forward passes whose backward has not come through it yet
  std::vector<Angles> angles_;   ///< by attention type, for `positions_` positions
  std::int64_t positions_ = 0;
};

}  // namespace fathom
