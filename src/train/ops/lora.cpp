#include "train/ops/lora.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"
#include "base/threads.h"

namespace fathom {

Checkpoint with_lora(const Checkpoint& student, const TrainOptions& options) {
  if (student.plan.adapters() > 0) {
    fail("{}: the model has adapters already: train those (--train adapters) or everything (--train all)",
         student.source.string());
  }
  Checkpoint result = student;
  Random random(options.seed);
  for (std::int64_t v = 0; v < result.plan.depth(); ++v) {
    result.plan.visits[v].adapter = v;
    for (const Linear linear : options.lora.targets) {
      const std::int64_t in = in_features(student.config, linear), out = out_features(student.config, linear);
      const std::int64_t rank = std::min({options.lora.rank, in, out});
      std::vector<float> a(rank * in);
      const double bound = 1 / std::sqrt(static_cast<double>(in));
      for (float& value : a) value = static_cast<float>((2 * random.uniform() - 1) * bound);
      const std::string name = adapter_name(v, linear_name(linear));
      result.tensors[name + ".lora_A.weight"] = make_tensor(DType::f32, {rank, in}, a);
      result.tensors[name + ".lora_B.weight"] =
          make_tensor(DType::f32, {out, rank}, std::vector<float>(out * rank));
    }
  }
  return result;
}

Checkpoint merge_lora(const Checkpoint& trained) {
  Checkpoint result = trained;
  for (Visit& visit : result.plan.visits) {
    for (const Linear linear : all_linears) {
      const std::string name = linear_name(linear);
      const Tensor* a = trained.adapter_tensor(visit.adapter, name + ".lora_A.weight");
      if (a == nullptr) continue;
      const std::vector<float> down = decode(*a);
      const std::vector<float> up =
          decode(trained.tensor(adapter_name(visit.adapter, name + ".lora_B.weight")));
      Tensor& weight = result.tensors.at(layer_name(visit.layer, name + ".weight"));
      std::vector<float> values = decode(weight);
      const std::int64_t rank = a->rows(), in = a->row_elements();
      parallel_for(weight.rows(), [&](std::int64_t row) {
        for (std::int64_t r = 0; r < rank; ++r) {
          const float factor = up[row * rank + r];
          for (std::int64_t i = 0; i < in; ++i) values[row * in + i] += factor * down[r * in + i];
        }
      });
      weight = make_tensor(written_type(weight.dtype, DType::bf16) == DType::f32 ? DType::f32 : DType::bf16,
                           weight.shape, values);
    }
    visit.adapter = -1;
  }
  std::erase_if(result.tensors, [](const auto& entry) { return entry.first.starts_with("model.adapters."); });
  return result;
}

}  // namespace fathom
