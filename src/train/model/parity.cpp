// The trainer's forward and backward pass by themselves, in float32, for tests against other implementations.
#include <ATen/core/grad_mode.h>

#include <limits>

#include "base/error.h"
#include "train/model/model.h"
#include "train/ops/head_loss.h"
#include "train/train.h"

namespace fathom {
namespace {

at::Tensor one_sequence(const std::vector<Token>& ids, const TrainModel& model) {
  return at::tensor(at::ArrayRef<Token>(ids), at::kLong).view({1, -1}).to(model.operations().device());
}

}  // namespace

std::vector<float> train_logits(const Checkpoint& checkpoint, const std::vector<Token>& ids, Device device) {
  const at::NoGradGuard no_grad;
  TrainModel model(checkpoint, {.device = device});
  at::Tensor logits = at::linear(model.forward(one_sequence(ids, model)), model.head().weight().values).cpu();
  const double cap = checkpoint.config.logit_softcap;
  if (cap != 0) logits = (logits / cap).tanh() * cap;
  return {logits.data_ptr<float>(), logits.data_ptr<float>() + logits.numel()};
}

double train_gradients(const Checkpoint& checkpoint, const std::vector<Token>& ids, TensorMap& gradients,
                       Device device) {
  if (ids.size() < 2) fail("a loss needs at least two tokens, got {}", ids.size());
  TrainModel model(checkpoint, {.device = device});
  std::vector<Token> labels(ids.begin() + 1, ids.end());
  labels.push_back(-1);
  const auto predicted = static_cast<float>(ids.size() - 1);
  const LossWeights weights{.softcap = static_cast<float>(checkpoint.config.logit_softcap),
                            .scale = 1 / predicted};
  const at::Tensor hidden = model.forward(one_sequence(ids, model));
  at::Tensor hidden_gradient;
  const LossSums sums = head_loss(hidden.detach(), model.head(), labels, weights, {}, hidden_gradient);
  hidden.backward(hidden_gradient);
  for (const auto& [name, parameter] : model.parameters()) {
    const at::Tensor gradient = parameter.gradient.cpu();
    const std::span<const float> values(gradient.data_ptr<float>(),
                                        static_cast<std::size_t>(gradient.numel()));
    gradients[name] = make_tensor(DType::f32, gradient.sizes().vec(), values);
  }
  return sums.cross_entropy / predicted;
}

}  // namespace fathom
