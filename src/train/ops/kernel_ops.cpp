#include "train/ops/kernel_ops.h"

#include <cmath>
#include <utility>

#include "train/kernels/gate.h"
#include "train/kernels/optimiser_kernels.h"
#include "train/ops/kernel_head.h"
#include "train/ops/kernel_linear.h"
#include "train/ops/way_back.h"

namespace fathom {

Values rows_of(const at::Tensor& tensor) {
  return {tensor.data_ptr(), tensor.scalar_type() == at::kBFloat16};
}

namespace {

using Tensors = std::vector<at::Tensor>;

at::Tensor turned(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines, std::int64_t heads,
                  float direction) {
  at::Tensor y = at::empty_like(x);
  rotate(x.size(0), x.size(1), heads, cosines.size(0), 2 * cosines.size(1), cosines.data_ptr<float>(),
         sines.data_ptr<float>(), direction, rows_of(x), rows_of(y));
  return y;
}

const std::uint16_t* halves(const at::Tensor& tensor) {
  return static_cast<const std::uint16_t*>(tensor.data_ptr());
}
std::uint16_t* halves_to(const at::Tensor& tensor) { return static_cast<std::uint16_t*>(tensor.data_ptr()); }

at::Tensor attend_in_halves(const at::Tensor& qkv, const AttentionForm& form) {
  const std::int64_t rows = qkv.size(0), sequences = rows / form.positions;
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

// The norm of x and, if wanted, x.
Tensors normed(const at::Tensor& x, const Parameter& parameter, bool plus_one, double eps, at::ScalarType out,
               bool passes_on) {
  const at::Tensor gain = (plus_one ? parameter.values.detach() + 1 : parameter.values.detach()).contiguous();
  const std::int64_t width = gain.numel(), rows = x.numel() / width;
  const at::Tensor y = at::empty(x.sizes(), x.options().dtype(out));
  const at::Tensor inverse_rms = at::empty({rows}, at::kFloat);
  rms_norm(rows, width, rows_of(x), gain.data_ptr<float>(), static_cast<float>(eps), rows_of(y),
           inverse_rms.data_ptr<float>());
  return with_way_back(passes_on ? Tensors{y, x} : Tensors{y}, {x, parameter.values},
                       [=, x = x.detach(), &parameter](const Tensors& gradients) -> Tensors {
                         const at::Tensor &dy = gradients.front(), &more = gradients.back();
                         if (!dy.defined()) return {more};
                         at::Tensor dx = at::empty_like(x);
                         const bool trains = parameter.trainable();
                         rms_norm_backward(rows, width, rows_of(dy), rows_of(x), gain.data_ptr<float>(),
                                           inverse_rms.data_ptr<float>(),
                                           passes_on && more.defined() ? more.data_ptr<float>() : nullptr,
                                           rows_of(dx),
                                           trains ? parameter.gradient_sum().data_ptr<float>() : nullptr);
                         return {dx};
                       });
}

std::span<float> values_of(const at::Tensor& tensor) {
  return {tensor.data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

}  // namespace

at::Tensor KernelOperations::rms_norm(const at::Tensor& x, const Parameter& gain, bool plus_one, double eps,
                                      at::ScalarType out) const {
  return normed(x, gain, plus_one, eps, out, false).front();
}

Operations::Normed KernelOperations::norm_stream(const at::Tensor& stream, const Parameter& gain,
                                                 bool plus_one, double eps, at::ScalarType out) const {
  const Tensors both = normed(stream, gain, plus_one, eps, out, true);
  return {both[0], both[1]};
}

at::Tensor KernelOperations::rotary(const at::Tensor& x, const at::Tensor& cosines, const at::Tensor& sines,
                                    std::int64_t heads) const {
  return with_way_back(turned(x, cosines, sines, heads, 1), {x}, [=](const at::Tensor& dy) -> Tensors {
    return {turned(dy, cosines, sines, heads, -1)};
  });
}

at::Tensor KernelOperations::attend(const at::Tensor& qkv, const AttentionForm& form) const {
  const bool halves_suffice = qkv.scalar_type() == at::kBFloat16 && form.softcap == 0;
  return halves_suffice ? attend_in_halves(qkv, form) : Operations::attend(qkv, form);
}

at::Tensor KernelOperations::gate(const at::Tensor& gate_up, Activation activation) const {
  const std::int64_t rows = gate_up.size(0), width = gate_up.size(1) / 2;
  const at::Tensor y = at::empty({rows, width}, gate_up.options());
  gated(rows, width, activation, rows_of(gate_up), rows_of(y));
  return with_way_back(y, {gate_up}, [=, gate_up = gate_up.detach()](const at::Tensor& dy) -> Tensors {
    at::Tensor d_gate_up = at::empty_like(gate_up);
    gated_backward(rows, width, activation, rows_of(gate_up), rows_of(dy), rows_of(d_gate_up));
    return {d_gate_up};
  });
}

std::unique_ptr<LinearGroup> KernelOperations::linear_group(std::vector<const Parameter*> weights,
                                                            std::vector<const Parameter*> biases,
                                                            bool spares_memory) const {
  return std::make_unique<KernelGroup>(std::move(weights), std::move(biases), spares_memory);
}

std::unique_ptr<Head> KernelOperations::head(const Parameter* weight, bool spares_memory) const {
  return std::make_unique<KernelHead>(weight, spares_memory);
}

double KernelOperations::norm(const Tensors& tensors) const {
  double squares = 0;
  for (const at::Tensor& tensor : tensors) squares += sum_of_squares(values_of(tensor));
  return std::sqrt(squares);
}

void KernelOperations::adamw(const OptimiserOptions& options, const AdamWUpdate& update,
                             const std::vector<AdamWPart>& parts) const {
  const auto number = static_cast<double>(update.number);
  for (const AdamWPart& part : parts) {
    const AdamWStep step{.learning_rate = static_cast<float>(update.learning_rate),
                         .beta1 = static_cast<float>(options.beta1),
                         .beta2 = static_cast<float>(options.beta2),
                         .epsilon = static_cast<float>(options.epsilon),
                         .weight_decay = static_cast<float>(part.weight_decay),
                         .correction1 = static_cast<float>(1 - std::pow(options.beta1, number)),
                         .correction2 = static_cast<float>(1 - std::pow(options.beta2, number)),
                         .gradient_scale = static_cast<float>(update.gradient_scale)};
    const auto update_all = [&, &part = part](auto... how) {
      adamw_update(step, values_of(part.values), values_of(part.gradient), values_of(part.average),
                   values_of(part.square), how...);
    };
    part.changed ? update_all(part.columns, part.changed) : update_all();
  }
}

}  // namespace fathom
