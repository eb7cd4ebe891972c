#include "depth/unroll.h"

#include <string>
#include <vector>

#include "base/error.h"
#include "base/threads.h"

namespace fathom {
namespace {

/// W + B A.
std::vector<float> merged(const Tensor& weight, const Tensor& a, const Tensor& b) {
  const std::vector<float> down = decode(a), up = decode(b);
  std::vector<float> values = decode(weight);
  const std::int64_t rank = a.rows(), in = a.row_elements();
  parallel_for(weight.rows(), [&](std::int64_t row) {
    for (std::int64_t r = 0; r < rank; ++r) {
      const float factor = up[row * rank + r];
      for (std::int64_t i = 0; i < in; ++i) values[row * in + i] += factor * down[r * in + i];
    }
  });
  return values;
}

/// What visit i computes with, as tensors of layer i.
class Unroller {
 public:
  Unroller(const Checkpoint& checkpoint, std::optional<DType> merged_as)
      : from_(checkpoint), merged_as_(merged_as) {}

  void add_layer(const Visit& visit, std::int64_t layer, TensorMap& to) const {
    for (const NormInfo& norm : layer_norms(from_.config)) {
      const std::string name = norm.name + ".weight";
      const Tensor* own = from_.adapter_tensor(visit.adapter, name);
      to[layer_name(layer, name)] = own != nullptr ? *own : from_.layer_tensor(visit.layer, name);
    }
    for (const Linear linear : all_linears) {
      const std::string name = linear_name(linear);
      to[layer_name(layer, name + ".weight")] = weight(visit, name);
      const Tensor* own = from_.adapter_tensor(visit.adapter, name + ".lora_B.bias");
      if (has_bias(from_.config, linear)) {
        to[layer_name(layer, name + ".bias")] = bias(from_.layer_tensor(visit.layer, name + ".bias"), own);
      } else if (own != nullptr) {
        fail("{}: tensor '{}' is a bias, which '{}' does not have here: such an adapter cannot be merged",
             from_.source.string(), adapter_name(visit.adapter, name + ".lora_B.bias"),
             from_.config.architecture);
      }
    }
  }

 private:
  Tensor weight(const Visit& visit, const std::string& name) const {
    const Tensor& shared = from_.layer_tensor(visit.layer, name + ".weight");
    const Tensor* a = from_.adapter_tensor(visit.adapter, name + ".lora_A.weight");
    if (a == nullptr) return shared;
    const Tensor& b = from_.tensor(adapter_name(visit.adapter, name + ".lora_B.weight"));
    const bool wide = written_type(shared.dtype, DType::bf16) == DType::f32;
    return make_tensor(merged_as_.value_or(wide ? DType::f32 : DType::bf16), shared.shape,
                       merged(shared, *a, b));
  }

  static Tensor bias(const Tensor& shared, const Tensor* own) {
    if (own == nullptr) return shared;
    std::vector<float> values = decode(shared);
    const std::vector<float> added = decode(*own);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += added[i];
    return make_tensor(DType::f32, shared.shape, values);
  }

  const Checkpoint& from_;
  std::optional<DType> merged_as_;
};

}  // namespace

Checkpoint unroll(const Checkpoint& checkpoint, std::optional<DType> merged_as) {
  Checkpoint result = checkpoint;
  std::erase_if(result.tensors, [](const auto& entry) {
    return entry.first.starts_with("model.adapters.") || entry.first.starts_with("model.layers.");
  });
  const Unroller unroller(checkpoint, merged_as);
  result.plan.layers = checkpoint.plan.depth();
  for (std::int64_t layer = 0; layer < result.plan.layers; ++layer) {
    Visit& visit = result.plan.visits[static_cast<std::size_t>(layer)];
    unroller.add_layer(visit, layer, result.tensors);
    visit.layer = layer;
    visit.adapter = -1;
  }
  return result;
}

}  // namespace fathom
