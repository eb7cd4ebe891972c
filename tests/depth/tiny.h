// Tiny models for the tests of depth: the oracle's, as deep as a test wants them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/random.h"
#include "logits.h"
#include "model/checkpoint.h"
#include "oracle.h"

namespace fathom {

/// The oracle's model made `depth` layers deep: its layers over and over, each time with other values.
inline Checkpoint deep_model(const std::string& name, std::int64_t depth) {
  const Checkpoint base = load_checkpoint(load_oracle(name).model);
  Checkpoint deep = base;
  Random random(11);
  deep.plan.layers = depth;
  for (std::int64_t l = base.plan.depth(); l < depth; ++l) {
    Visit visit = base.plan.visits[static_cast<std::size_t>(l % base.plan.depth())];
    const std::string from = layer_name(visit.layer, "");
    for (const auto& [key, tensor] : base.tensors) {
      if (!key.starts_with(from)) continue;
      std::vector<float> values = decode(tensor);
      for (float& value : values) value *= static_cast<float>(1 + 0.5 * random.normal());
      deep.tensors.insert_or_assign(layer_name(l, key.substr(from.size())),
                                    make_tensor(DType::f32, tensor.shape, values));
    }
    visit.layer = l;
    deep.plan.visits.push_back(visit);
  }
  validate(deep);
  return deep;
}

inline std::vector<Token> random_text(const Checkpoint& checkpoint, std::size_t count) {
  Random random(7);
  std::vector<Token> ids(count);
  for (Token& id : ids) {
    id = static_cast<Token>(random.below(static_cast<std::uint64_t>(checkpoint.config.vocab_size)));
  }
  return ids;
}

}  // namespace fathom
