#include "train/ops.h"

#include <limits>
#include <optional>
#include <vector>

#include "train/gate.h"
#include "train/way_back.h"

namespace fathom {
namespace {

using Tensors = std::vector<at::Tensor>;

at::Tensor turned(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines, int64_t heads,
                  float direction) {
  at::Tensor y = at::empty_like(x);
  rotate(x.size(0), x.size(1), heads, cosines.size(0), 2 * cosines.size(1), cosines.data_ptr<float>(),
         sines.data_ptr<float>(), direction, rows_of(x), rows_of(y));
  return y;
}

/// True where a query (row) may see a key (column).
at::Tensor visible(int64_t positions, int64_t window) {
  const at::Tensor ones = at::ones({positions, positions}, at::kBool);
  const at::Tensor causal = ones.tril();
  return window > 0 && window < positions ? causal.logical_and(ones.triu(1 - window)) : causal;
}

const std::uint16_t* halves(const at::Tensor& tensor) {
  return static_cast<const std::uint16_t*>(tensor.data_ptr());
}
std::uint16_t* halves_to(const at::Tensor& tensor) { return static_cast<std::uint16_t*>(tensor.data_ptr()); }

at::Tensor attend_in_halves(const at::Tensor& qkv, const AttentionForm& form) {
  const int64_t rows = qkv.size(0), sequences = rows / form.positions;
  const at::Tensor mixed = at::empty({rows, form.heads * form.head_dim}, qkv.options());
  const at::Tensor log_sums = at::empty({rows, form.heads}, at::kFloat);
  attention(sequences, form, halves(qkv), halves_to(mixed), log_sums.data_ptr<float>());
  return with_way_back(mixed, {qkv},
                       [=, qkv = qkv.detach(), y = mixed.detach()](const at::Tensor& dy) -> Tensors {
                         at::Tensor d_qkv = at::empty_like(qkv);
                         attention_backward(sequences, form, halves(qkv), halves(y),
                                            log_sums.data_ptr<float>(), halves(dy), halves_to(d_qkv));
                         return {d_qkv};
                       });
}

at::Tensor attend_by_torch(const at::Tensor& qkv, const AttentionForm& form) {
  const int64_t positions = form.positions;
  const Tensors parts = qkv.view({-1, positions, form.heads + 2 * form.kv_heads, form.head_dim})
                            .split_with_sizes({form.heads, form.kv_heads, form.kv_heads}, 2);
  const at::Tensor queries = parts[0].transpose(1, 2), keys = parts[1].transpose(1, 2),
                   values = parts[2].transpose(1, 2);
  at::Tensor mixed;
  if (form.softcap == 0) {
    const bool windowed = form.window > 0 && form.window < positions;
    const std::optional<at::Tensor> mask =
        windowed ? std::optional(visible(positions, form.window)) : std::nullopt;
    mixed = at::scaled_dot_product_attention(queries, keys, values, mask, 0.0, !windowed, form.scale,
                                             /*enable_gqa=*/true);
  } else {
    const int64_t group = form.heads / form.kv_heads;
    at::Tensor scores =
        queries.matmul(keys.repeat_interleave(group, 1).transpose(2, 3)).to(at::kFloat) * form.scale;
    scores = (scores / form.softcap).tanh() * form.softcap;
    scores = scores.masked_fill(visible(positions, form.window).logical_not(),
                                -std::numeric_limits<float>::infinity());
    mixed = scores.softmax(-1).to(qkv.scalar_type()).matmul(values.repeat_interleave(group, 1));
  }
  return mixed.transpose(1, 2).reshape({qkv.size(0), form.heads * form.head_dim});
}

}  // namespace

Values rows_of(const at::Tensor& tensor) {
  return {tensor.data_ptr(), tensor.scalar_type() == at::kBFloat16};
}

at::Tensor rms_norm(const at::Tensor& x, const Parameter& parameter, bool plus_one, double eps,
                    at::ScalarType out) {
  const at::Tensor gain = (plus_one ? parameter.values.detach() + 1 : parameter.values.detach()).contiguous();
  const int64_t width = gain.numel(), rows = x.numel() / width;
  const at::Tensor y = at::empty(x.sizes(), x.options().dtype(out));
  const at::Tensor inverse_rms = at::empty({rows}, at::kFloat);
  rms_norm(rows, width, rows_of(x), gain.data_ptr<float>(), static_cast<float>(eps), rows_of(y),
           inverse_rms.data_ptr<float>());
  return with_way_back(y, {x, parameter.values},
                       [=, x = x.detach(), gradient = parameter.gradient](const at::Tensor& dy) -> Tensors {
                         at::Tensor dx = at::empty_like(x);
                         rms_norm_backward(rows, width, rows_of(dy), rows_of(x), gain.data_ptr<float>(),
                                           inverse_rms.data_ptr<float>(), rows_of(dx),
                                           gradient.defined() ? gradient.data_ptr<float>() : nullptr);
                         return {dx};
                       });
}

at::Tensor embed(const at::Tensor& ids, const Parameter& matrix, double scale) {
  const at::Tensor rows = matrix.values.detach().index_select(0, ids).to(at::kFloat).mul_(scale);
  return with_way_back(rows, {matrix.values},
                       [=, gradient = matrix.gradient](const at::Tensor& dy) mutable -> Tensors {
                         if (gradient.defined()) gradient.index_add_(0, ids, dy, scale);
                         return {};
                       });
}

at::Tensor rotary(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines, int64_t heads) {
  return with_way_back(turned(x, cosines, sines, heads, 1), {x}, [=](const at::Tensor& dy) -> Tensors {
    return {turned(dy, cosines, sines, heads, -1)};
  });
}

at::Tensor attend(const at::Tensor& qkv, const AttentionForm& form) {
  const bool halves_suffice = qkv.scalar_type() == at::kBFloat16 && form.softcap == 0;
  return halves_suffice ? attend_in_halves(qkv, form) : attend_by_torch(qkv, form);
}

at::Tensor gate(const at::Tensor& gate_up, Activation activation) {
  const int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
  const at::Tensor y = at::empty({rows, width}, gate_up.options());
  gated(rows, width, activation, rows_of(gate_up), rows_of(y));
  return with_way_back(y, {gate_up}, [=, gate_up = gate_up.detach()](const at::Tensor& dy) -> Tensors {
    at::Tensor d_gate_up = at::empty_like(gate_up);
    gated_backward(rows, width, activation, rows_of(gate_up), rows_of(dy), rows_of(d_gate_up));
    return {d_gate_up};
  });
}

}  // namespace fathom
