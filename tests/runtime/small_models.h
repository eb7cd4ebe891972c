// Small models and texts for tests of the runtime.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/random.h"
#include "oracle.h"

namespace fathom {

inline Checkpoint load(const std::string& name) { return load_checkpoint(load_oracle(name).model); }

inline std::vector<Token> some_tokens(const Checkpoint& checkpoint, std::size_t count,
                                      std::uint64_t seed = 0) {
  Random random(seed);
  std::vector<Token> tokens(count);
  for (Token& token : tokens)
    token = static_cast<Token>(random.below(static_cast<std::uint64_t>(checkpoint.config.vocab_size)));
  return tokens;
}

// Layers 0 and 1 visited in turn, `loops` times, with low-rank pairs and a norm of their own on some visits.
inline Checkpoint recursive(const std::string& name, std::int64_t loops) {
  Checkpoint model = load(name);
  const auto types = model.plan.visits;
  model.plan.visits.clear();
  Random random(3);
  for (std::int64_t v = 0; v < 2 * loops; ++v) {
    Visit visit = types[static_cast<std::size_t>(v) % types.size()];
    visit.layer = v % 2;
    visit.adapter = v % 3 == 1 ? -1 : model.plan.adapters();
    model.plan.visits.push_back(visit);
    if (visit.adapter < 0) continue;
    for (const Linear linear : all_linears) {
      if ((v + static_cast<std::int64_t>(linear)) % 4 == 0) continue;
      const std::int64_t rank = 1 + v, out = out_features(model.config, linear);
      const std::int64_t in = in_features(model.config, linear);
      const auto values = [&](std::int64_t count) {
        std::vector<float> some(static_cast<std::size_t>(count));
        for (float& value : some) value = static_cast<float>(random.normal() * 0.05);
        return some;
      };
      const std::string base = adapter_name(visit.adapter, linear_name(linear));
      model.tensors[base + ".lora_A.weight"] = make_tensor(DType::f32, {rank, in}, values(rank * in));
      model.tensors[base + ".lora_B.weight"] = make_tensor(DType::f32, {out, rank}, values(out * rank));
    }
    std::vector<float> gain(static_cast<std::size_t>(model.config.hidden_size), 0.7F);
    model.tensors[adapter_name(visit.adapter, "input_layernorm.weight")] =
        make_tensor(DType::f32, {model.config.hidden_size}, gain);
  }
  return model;
}

// Values of no meaning for what exits may have of their own: pairs of rank 3 and whole matrices in turn,
// gates, and every other token as shortlist.
inline void add_exit_parts(Checkpoint& model) {
  Random random(5);
  const std::int64_t width = model.config.hidden_size;
  std::int64_t exits = 0;
  for (std::int64_t v = 0; v < model.plan.depth(); ++v) {
    if (!model.plan.visits[static_cast<std::size_t>(v)].exit) continue;
    const auto set = [&](const std::string& name, const Shape& shape, double size) {
      std::vector<float> values(static_cast<std::size_t>(element_count(shape)));
      for (float& value : values) value = static_cast<float>(random.normal() * size);
      model.exits[exit_name(v, name)] = make_tensor(DType::f32, shape, values);
    };
    set("translator.bias", {width}, 0.3);
    set("gate.weight", {1, width}, 0.3);
    set("gate.bias", {1}, 0.3);
    if (++exits % 2 == 0) {
      set("translator.weight", {width, width}, 0.2);
    } else {
      set("translator.lora_A.weight", {3, width}, 0.5);
      set("translator.lora_B.weight", {width, 3}, 0.5);
    }
  }
  std::vector<float> tokens;
  for (std::int64_t token = 1; token < model.config.vocab_size; token += 2)
    tokens.push_back(static_cast<float>(token));
  model.exits[std::string(shortlist_name)] = make_tensor(DType::f32, {std::ssize(tokens)}, tokens);
}

}  // namespace fathom
