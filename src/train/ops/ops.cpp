#include "train/ops/ops.h"

#include <ATen/core/grad_mode.h>

#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "train/ops/way_back.h"

namespace fathom {
namespace {

using Tensors = std::vector<at::Tensor>;

/// True where a query (row) may see a key (column).
at::Tensor visible(std::int64_t positions, std::int64_t window, at::Device device) {
  const at::Tensor ones = at::ones({positions, positions}, at::device(device).dtype(at::kBool));
  const at::Tensor causal = ones.tril();
  return window > 0 && window < positions ? causal.logical_and(ones.triu(1 - window)) : causal;
}

at::Tensor activated(const at::Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::silu:
      return at::silu(x);
    case Activation::gelu:
      return at::gelu(x);
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::relu:
      break;
  }
  return at::relu(x);
}

}  // namespace

/// Keeps x alone, which others keep, too, and computes the norm again in the way back.
at::Tensor Operations::rms_norm(const at::Tensor& x, const Parameter& parameter, bool plus_one, double eps,
                                at::ScalarType out) const {
  const auto normed = [=](const at::Tensor& rows, const at::Tensor& values) {
    const at::Tensor gain = plus_one ? values + 1 : values;
    return at::rms_norm(rows.to(at::kFloat).view({-1, gain.numel()}), gain.sizes(), gain, eps)
        .to(out)
        .view(rows.sizes());
  };
  const at::Tensor values = parameter.values.detach();
  return with_way_back(normed(x.detach(), values), {x, parameter.values},
                       [=, x = x.detach(), &parameter](const at::Tensor& dy) -> Tensors {
                         const at::AutoGradMode with_gradients(true);
                         const bool trains = parameter.trainable();
                         const at::Tensor own_x = x.detach().set_requires_grad(true),
                                          own_values = values.detach().set_requires_grad(trains);
                         normed(own_x, own_values).backward(dy);
                         if (trains) parameter.gradient_sum().detach().add_(own_values.grad());
                         return {own_x.grad()};
                       });
}

at::Tensor Operations::embed(const at::Tensor& ids, const Parameter& matrix, double scale) const {
  const at::Tensor rows = matrix.values.detach().index_select(0, ids).to(at::kFloat).mul_(scale);
  return with_way_back(rows, {matrix.values}, [=, &matrix](const at::Tensor& dy) -> Tensors {
    if (matrix.trainable()) matrix.gradient_sum().index_add_(0, ids, dy, scale);
    return {};
  });
}

at::Tensor Operations::rotary(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines,
                              std::int64_t heads) const {
  const std::int64_t positions = cosines.size(0), half = cosines.size(1), all_heads = x.size(1) / (2 * half);
  const at::Tensor all = x.view({-1, positions, all_heads, 2, half});
  const at::Tensor pairs = all.narrow(2, 0, heads).to(at::kFloat), a = pairs.select(3, 0),
                   b = pairs.select(3, 1);
  const at::Tensor c = cosines.unsqueeze(1), s = sines.unsqueeze(1);
  const at::Tensor turned = at::stack({a * c - b * s, b * c + a * s}, 3).to(x.scalar_type());
  return at::cat({turned, all.narrow(2, heads, all_heads - heads)}, 2).view(x.sizes());
}

at::Tensor Operations::attend(const at::Tensor& qkv, const AttentionForm& form) const {
  const std::int64_t positions = form.positions;
  const Tensors parts = qkv.view({-1, positions, form.heads + 2 * form.kv_heads, form.head_dim})
                            .split_with_sizes({form.heads, form.kv_heads, form.kv_heads}, 2);
  const at::Tensor queries = parts[0].transpose(1, 2), keys = parts[1].transpose(1, 2),
                   values = parts[2].transpose(1, 2);
  at::Tensor mixed;
  if (form.softcap == 0) {
    const bool windowed = form.window > 0 && form.window < positions;
    const std::optional<at::Tensor> mask =
        windowed ? std::optional(visible(positions, form.window, qkv.device())) : std::nullopt;
    mixed = at::scaled_dot_product_attention(queries, keys, values, mask, 0.0, !windowed, form.scale,
                                             /*enable_gqa=*/true);
  } else {
    const std::int64_t group = form.heads / form.kv_heads;
    at::Tensor scores =
        queries.matmul(keys.repeat_interleave(group, 1).transpose(2, 3)).to(at::kFloat) * form.scale;
    scores = (scores / form.softcap).tanh() * form.softcap;
    scores = scores.masked_fill(visible(positions, form.window, qkv.device()).logical_not(),
                                -std::numeric_limits<float>::infinity());
    mixed = scores.softmax(-1).to(qkv.scalar_type()).matmul(values.repeat_interleave(group, 1));
  }
  return mixed.transpose(1, 2).reshape({qkv.size(0), form.heads * form.head_dim});
}

at::Tensor Operations::gate(const at::Tensor& gate_up, Activation activation) const {
  const Tensors parts = gate_up.chunk(2, 1);
  return activated(parts[0], activation) * parts[1];
}

std::unique_ptr<LinearGroup> Operations::linear_group(std::vector<const Parameter*> weights,
                                                      std::vector<const Parameter*> biases, bool) const {
  return std::make_unique<LinearGroup>(std::move(weights), std::move(biases));
}

std::unique_ptr<Head> Operations::head(const Parameter* weight, bool) const {
  return std::make_unique<Head>(weight);
}

double Operations::norm(const Tensors& tensors) const {
  return at::stack(at::_foreach_norm(tensors)).to(at::kDouble).norm().item<double>();
}

void Operations::adamw(const OptimiserOptions& options, const AdamWUpdate& update,
                       const std::vector<AdamWPart>& parts) const {
  struct Lists {
    Tensors values, gradients, averages, squares, numbers;
  };
  std::map<double, Lists> by_decay;
  const at::TensorOptions scalar = at::device(device_).dtype(at::kFloat);
  const at::Tensor number = at::full({}, static_cast<double>(update.number), scalar);
  for (const AdamWPart& part : parts) {
    if (part.values.numel() == 0) continue;
    Lists& lists = by_decay[part.weight_decay];
    lists.values.push_back(part.values);
    lists.gradients.push_back(part.gradient);
    lists.averages.push_back(part.average);
    lists.squares.push_back(part.square);
    lists.numbers.push_back(number);
  }
  // It divides by its scale.
  const at::Tensor scale = at::full({}, 1 / update.gradient_scale, scalar);
  for (auto& [decay, lists] : by_decay) {
    at::_fused_adamw_(lists.values, lists.gradients, lists.averages, lists.squares, {}, lists.numbers,
                      update.learning_rate, options.beta1, options.beta2, decay, options.epsilon,
                      /*amsgrad=*/false, /*maximize=*/false, scale);
  }
}

}  // namespace fathom
