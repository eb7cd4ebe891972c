#include "train/ops.h"

#include <torch/csrc/autograd/custom_function.h>

#include <limits>
#include <optional>

namespace fathom {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// Parameters are passed to the functions twice: as the tensor that is computed with, which requires a
// gradient so that autograd knows the way, and whole, for the total to add to. Autograd itself gets no
// gradient for either.

void add_to(const Tensor& total, const Tensor& gradient) {
  const Tensor values = gradient.contiguous();
  accumulate(values.numel(), rows_of(values), total.data_ptr<float>());
}

struct LinearFunction : Function<LinearFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& matrix,
                        const Parameter& weight, const Parameter* bias) {
    context->save_for_backward({x, matrix});
    context->saved_data["weight"] = weight.gradient;
    context->saved_data["bias"] = bias != nullptr ? bias->gradient : Tensor();
    return bias != nullptr ? at::linear(x, matrix, bias->compute.to(matrix.scalar_type()))
                           : at::linear(x, matrix);
  }

  static variable_list backward(AutogradContext* context, const variable_list& output) {
    const auto saved = context->get_saved_variables();
    const Tensor dy = output[0].contiguous();
    const Tensor weight_gradient = context->saved_data["weight"].toTensor();
    const Tensor bias_gradient = context->saved_data["bias"].toTensor();
    if (weight_gradient.defined()) add_to(weight_gradient, dy.t().mm(saved[0]));
    if (bias_gradient.defined()) add_to(bias_gradient, dy.to(at::kFloat).sum(0));
    return {context->needs_input_grad(0) ? dy.mm(saved[1]) : Tensor(), {}, {}, {}};
  }
};

struct NormFunction : Function<NormFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const Parameter& parameter, bool plus_one, double eps, at::ScalarType out) {
    const Tensor gain = (plus_one ? weight + 1 : weight).contiguous();
    const int64_t width = gain.numel(), rows = x.numel() / width;
    Tensor y = at::empty(x.sizes(), x.options().dtype(out));
    Tensor inverse_rms = at::empty({rows}, x.options().dtype(at::kFloat));
    rms_norm(rows, width, rows_of(x), gain.data_ptr<float>(), static_cast<float>(eps), rows_of(y),
             inverse_rms.data_ptr<float>());
    context->save_for_backward({x, gain, inverse_rms});
    context->saved_data["gradient"] = parameter.gradient;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& output) {
    const auto saved = context->get_saved_variables();
    const Tensor &x = saved[0], &gain = saved[1];
    const Tensor dy = output[0].contiguous();
    const Tensor gradient = context->saved_data["gradient"].toTensor();
    Tensor dx = at::empty_like(x);
    const int64_t width = gain.numel();
    rms_norm_backward(x.numel() / width, width, rows_of(dy), rows_of(x), gain.data_ptr<float>(),
                      saved[2].data_ptr<float>(), rows_of(dx),
                      gradient.defined() ? gradient.data_ptr<float>() : nullptr);
    return {dx, {}, {}, {}, {}, {}};
  }
};

struct EmbedFunction : Function<EmbedFunction> {
  static Tensor forward(AutogradContext* context, const Tensor& ids, const Tensor& /*the way for autograd*/,
                        const Parameter& matrix, double scale) {
    context->save_for_backward({ids});
    context->saved_data["gradient"] = matrix.gradient;
    context->saved_data["scale"] = scale;
    return matrix.values().index_select(0, ids).to(at::kFloat).mul_(scale);
  }

  static variable_list backward(AutogradContext* context, const variable_list& output) {
    const Tensor gradient = context->saved_data["gradient"].toTensor();
    if (gradient.defined()) {
      gradient.index_add_(0, context->get_saved_variables()[0], output[0],
                          context->saved_data["scale"].toDouble());
    }
    return {{}, {}, {}, {}};
  }
};

struct RotaryFunction : Function<RotaryFunction> {
  static Tensor turned(const Tensor& x, const Tensor& cosines, const Tensor& sines, int64_t heads,
                       float direction) {
    Tensor y = at::empty_like(x);
    rotate(x.size(0), cosines.size(0), heads, x.size(1) / heads, cosines.data_ptr<float>(),
           sines.data_ptr<float>(), direction, rows_of(x), rows_of(y));
    return y;
  }

  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& cosines, const Tensor& sines,
                        int64_t heads) {
    context->save_for_backward({cosines, sines});
    context->saved_data["heads"] = heads;
    return turned(x, cosines, sines, heads, 1);
  }

  static variable_list backward(AutogradContext* context, const variable_list& output) {
    const auto saved = context->get_saved_variables();
    return {turned(output[0].contiguous(), saved[0], saved[1], context->saved_data["heads"].toInt(), -1),
            {},
            {},
            {}};
  }
};

/// True where a query (row) may see a key (column).
Tensor visible(int64_t positions, int64_t window) {
  const Tensor ones = at::ones({positions, positions}, at::kBool);
  const Tensor causal = ones.tril();
  return window > 0 && window < positions ? causal.logical_and(ones.triu(1 - window)) : causal;
}

}  // namespace

Values rows_of(const Tensor& tensor) { return {tensor.data_ptr(), tensor.scalar_type() == at::kBFloat16}; }

Tensor linear(const Tensor& x, const Parameter& weight, const Parameter* bias) {
  return LinearFunction::apply(x, weight.compute, weight, bias);
}

Tensor rms_norm(const Tensor& x, const Parameter& gain, bool plus_one, double eps, at::ScalarType out) {
  return NormFunction::apply(x, gain.compute, gain, plus_one, eps, out);
}

Tensor embed(const Tensor& ids, const Parameter& matrix, double scale) {
  return EmbedFunction::apply(ids, matrix.compute, matrix, scale);
}

Tensor rotary(const Tensor& x, const Tensor& cosines, const Tensor& sines, int64_t heads) {
  return RotaryFunction::apply(x, cosines, sines, heads);
}

Tensor attend(const Tensor& q, const Tensor& k, const Tensor& v, double scale, int64_t window,
              double softcap) {
  const int64_t positions = q.size(1);
  const Tensor queries = q.transpose(1, 2), keys = k.transpose(1, 2), values = v.transpose(1, 2);
  if (softcap == 0) {
    const bool windowed = window > 0 && window < positions;
    const std::optional<Tensor> mask = windowed ? std::optional(visible(positions, window)) : std::nullopt;
    return at::scaled_dot_product_attention(queries, keys, values, mask, 0.0, !windowed, scale,
                                            /*enable_gqa=*/true)
        .transpose(1, 2);
  }
  const int64_t group = q.size(2) / k.size(2);
  Tensor scores = queries.matmul(keys.repeat_interleave(group, 1).transpose(2, 3)).to(at::kFloat) * scale;
  scores = (scores / softcap).tanh() * softcap;
  scores =
      scores.masked_fill(visible(positions, window).logical_not(), -std::numeric_limits<float>::infinity());
  return scores.softmax(-1).to(q.scalar_type()).matmul(values.repeat_interleave(group, 1)).transpose(1, 2);
}

}  // namespace fathom
