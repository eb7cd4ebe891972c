#include "train/ops/lora.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/random.h"

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

}  // namespace fathom
