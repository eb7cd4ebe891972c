// What the engine must do, one token of one sequence at a time in plain loops: written to be read. For models
// with Llama's layers, any plan and adapters.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "model/checkpoint.h"
#include "runtime/engine.h"

namespace fathom {

class Sequential {
 public:
  using Values = std::vector<float>;

  explicit Sequential(const Checkpoint& model, ExitedKv policy = ExitedKv::exact)
      : model_(model), policy_(policy), entries_(static_cast<std::size_t>(model.plan.depth())) {}

  /// Whether a token leaves after a visit, by its state there and what the head makes of it.
  using Leaves = std::function<bool(std::int64_t visit, const Values& hidden, const Values& logits)>;
  struct Output {
    Values logits;
    std::int64_t visits = 0;
  };

  /// The first tokens of the sequence: at each visit one after the other, before any of them goes on.
  Output prompt(std::span<const Token> tokens) {
    std::vector<State> states;
    for (const Token token : tokens)
      states.push_back({.position = length_++, .hidden = row("model.embed_tokens.weight", token)});
    for (std::int64_t visit = 0; visit < model_.plan.depth(); ++visit)
      for (State& state : states) make_visit(state, false);
    return {head(states.back().hidden), model_.plan.depth()};
  }

  /// The next token of the sequence; it may leave after the visits that `exits` marks.
  Output take(Token token, const Exits& exits = {}, const Leaves& leaves = {}) {
    State now = {.position = length_++, .hidden = row("model.embed_tokens.weight", token)};
    const std::int64_t depth = model_.plan.depth();
    while (now.visit < depth) {
      // Those that left here before it owe this visit, in the order of their positions.
      for (State& owing : left_)
        if (owing.visit == now.visit) make_visit(owing, policy_ == ExitedKv::copy);
      make_visit(now, false);
      const auto made = static_cast<std::size_t>(now.visit - 1);
      if (now.visit == depth || made >= exits.size() || !exits[made]) continue;
      const Values logits = head(translated(now.visit - 1, now.hidden));
      if (!leaves(now.visit - 1, now.hidden, logits)) continue;
      if (policy_ == ExitedKv::exact || policy_ == ExitedKv::copy) left_.push_back(now);
      if (policy_ == ExitedKv::share)
        for (std::int64_t later = now.visit; later < depth; ++later)
          entries_[static_cast<std::size_t>(later)].push_back(last_of_layer(now.visit, later));
      return {logits, now.visit};
    }
    return {head(now.hidden), depth};
  }

 private:
  struct State {
    std::int64_t position = 0, visit = 0;
    Values hidden;
  };
  struct Entry {
    Values key, value;
  };

  // What the newest token has at the last of its visits of a later visit's layer.
  Entry last_of_layer(std::int64_t made, std::int64_t later) const {
    const auto layer = [&](std::int64_t v) { return model_.plan.visits[static_cast<std::size_t>(v)].layer; };
    std::int64_t visit = made - 1;
    while (layer(visit) != layer(later)) --visit;
    return entries_[static_cast<std::size_t>(visit)].back();
  }

  // What the head reads of a state after a visit: where the model has a translator (model/checkpoint.h), the
  // state over its root mean square, and what that adds.
  Values translated(std::int64_t visit, const Values& hidden) const {
    const Tensor* bias = model_.exit_tensor(visit, "translator.bias");
    if (bias == nullptr) return hidden;
    const Values n = norm(Values(hidden.size(), 1), hidden);
    Values sum = n;
    const auto factor = [&](const std::string& part, const Values& x) {
      return product(decode(*model_.exit_tensor(visit, "translator." + part)), x);
    };
    const bool low_rank = model_.exit_tensor(visit, "translator.weight") == nullptr;
    add(low_rank ? factor("lora_B.weight", factor("lora_A.weight", n)) : factor("weight", n), sum);
    add(decode(*bias), sum);
    return sum;
  }

  const Values& tensor(const std::string& name) const {
    Values& kept = decoded_[name];
    if (kept.empty()) kept = decode(model_.tensor(name));
    return kept;
  }
  Values row(const std::string& name, std::int64_t index) const {
    const Values& all = tensor(name);
    const auto begin = all.begin() + index * model_.config.hidden_size;
    return {begin, begin + model_.config.hidden_size};
  }

  // The layer's, or the visit's own.
  std::string name(const Visit& visit, const std::string& part) const {
    if (visit.adapter >= 0 && model_.adapter_tensor(visit.adapter, part) != nullptr)
      return adapter_name(visit.adapter, part);
    return layer_name(visit.layer, part);
  }

  static Values product(const Values& weight, const Values& x) {
    Values y(weight.size() / x.size());
    for (std::size_t o = 0; o < y.size(); ++o) {
      double sum = 0;
      for (std::size_t i = 0; i < x.size(); ++i) sum += double{weight[o * x.size() + i]} * x[i];
      y[o] = static_cast<float>(sum);
    }
    return y;
  }
  Values linear(const Visit& visit, const std::string& part, const Values& x) const {
    Values y = product(tensor(layer_name(visit.layer, part + ".weight")), x);
    if (visit.adapter < 0 || model_.adapter_tensor(visit.adapter, part + ".lora_A.weight") == nullptr)
      return y;
    const std::string pair = adapter_name(visit.adapter, part);
    add(product(tensor(pair + ".lora_B.weight"), product(tensor(pair + ".lora_A.weight"), x)), y);
    return y;
  }
  Values norm(const Values& gain, const Values& x) const {
    double squares = 0;
    for (const float v : x) squares += double{v} * v;
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + model_.config.norm_eps);
    Values y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = static_cast<float>(x[i] * scale * gain[i]);
    return y;
  }
  static void add(const Values& x, Values& y) {
    for (std::size_t i = 0; i < x.size(); ++i) y[i] += x[i];
  }

  // Pairs (i, i + dim / 2) of each head by angles position * frequency i.
  void rotate(const Visit& visit, std::int64_t position, Values& x) const {
    const auto& frequencies =
        model_.config.attention_types[static_cast<std::size_t>(visit.type)].rope.frequencies;
    const auto dim = static_cast<std::size_t>(model_.config.head_dim), half = dim / 2;
    for (std::size_t head = 0; head < x.size(); head += dim)
      for (std::size_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(position) * frequencies[i];
        float &a = x[head + i], &b = x[head + half + i];
        const double first = a * std::cos(angle) - b * std::sin(angle);
        b = static_cast<float>(b * std::cos(angle) + a * std::sin(angle));
        a = static_cast<float>(first);
      }
  }

  Values attention(std::span<const Entry> seen, const Values& queries) const {
    const auto dim = static_cast<std::size_t>(model_.config.head_dim);
    const std::int64_t group = model_.config.heads / model_.config.kv_heads;
    Values mixed(queries.size());
    for (std::int64_t head = 0; head < model_.config.heads; ++head) {
      const auto q = static_cast<std::size_t>(head) * dim, kv = static_cast<std::size_t>(head / group) * dim;
      std::vector<double> weights;
      double sum = 0;
      for (const Entry& entry : seen) {
        double score = 0;
        for (std::size_t i = 0; i < dim; ++i) score += double{queries[q + i]} * entry.key[kv + i];
        weights.push_back(std::exp(score * model_.config.attention_scale));
        sum += weights.back();
      }
      for (std::size_t e = 0; e < seen.size(); ++e)
        for (std::size_t i = 0; i < dim; ++i)
          mixed[q + i] += static_cast<float>(weights[e] / sum * seen[e].value[kv + i]);
    }
    return mixed;
  }

  void make_visit(State& state, bool keys_only) {
    const Visit& visit = model_.plan.visits[static_cast<std::size_t>(state.visit)];
    // Of `single` those of a layer, where a token writes over what it had, and sees nothing behind itself.
    const std::int64_t slot = policy_ == ExitedKv::single ? visit.layer : state.visit;
    auto& seen = entries_[static_cast<std::size_t>(slot)];
    ++state.visit;
    const Values normed = norm(tensor(name(visit, "input_layernorm.weight")), state.hidden);
    Entry own = {linear(visit, "self_attn.k_proj", normed), linear(visit, "self_attn.v_proj", normed)};
    rotate(visit, state.position, own.key);
    const bool again = policy_ == ExitedKv::single && state.position < std::ssize(seen);
    if (again)
      seen[static_cast<std::size_t>(state.position)] = std::move(own);
    else
      seen.push_back(std::move(own));
    if (keys_only) return;
    const auto before = again ? static_cast<std::size_t>(state.position) + 1 : seen.size();
    Values queries = linear(visit, "self_attn.q_proj", normed);
    rotate(visit, state.position, queries);
    add(linear(visit, "self_attn.o_proj", attention(std::span(seen).first(before), queries)), state.hidden);
    const Values inner = norm(tensor(name(visit, "post_attention_layernorm.weight")), state.hidden);
    Values gate = linear(visit, "mlp.gate_proj", inner);
    const Values up = linear(visit, "mlp.up_proj", inner);
    for (std::size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
    add(linear(visit, "mlp.down_proj", gate), state.hidden);
  }

  Values head(const Values& hidden) const {
    if (head_.empty()) head_ = decode(model_.head());
    return product(head_, norm(tensor("model.norm.weight"), hidden));
  }

  const Checkpoint& model_;
  ExitedKv policy_;
  std::int64_t length_ = 0;
  std::vector<std::vector<Entry>> entries_;  // by visit
  std::vector<State> left_;                  // by position
  mutable std::map<std::string, Values> decoded_;
  mutable Values head_;
};

}  // namespace fathom
