#include "train/run/options.h"

#include <utility>

#include "base/error.h"

namespace fathom {
namespace {

Json to_json(const ExitOptions& exits) {
  return {{"visits", exits.visits},
          {"weighting", name_of(exit_weightings, exits.weighting)},
          {"alpha", exits.alpha},
          {"scale", exits.scale},
          {"curriculum", name_of(exit_curricula, exits.curriculum)},
          {"rotation", exits.rotation},
          {"ce_weight", exits.cross_entropy},
          {"distil_weight", exits.divergence}};
}

Json to_json(const HiddenLossOptions& hidden) {
  Json pairs = Json::array();
  for (const HiddenPair& pair : hidden.pairs) pairs.push_back(Json::array({pair.student, pair.teacher}));
  return {{"weight", hidden.weight}, {"pairs", std::move(pairs)}};
}

}  // namespace

Json to_json(const TrainOptions& options) {
  Json targets = Json::array();
  for (const Linear linear : options.lora.targets) targets.push_back(linear_name(linear));
  return {{"train", name_of(trainables, options.trainable)},
          {"base", name_of(frozen_types, options.frozen)},
          {"lora_targets", targets},
          {"lora_rank", options.lora.rank},
          {"lora_alpha", options.lora.alpha},
          {"merge", options.lora.merge},
          {"ce_weight", options.loss.cross_entropy},
          {"distil_weight", options.loss.divergence},
          {"divergence", name_of(divergences, options.loss.kind)},
          {"temperature", options.loss.temperature},
          {"teacher_top_k", options.teacher_cache.folder.empty() ? 0 : options.teacher_cache.top_k},
          {"exits", to_json(options.exits)},
          {"layer_dropout", {{"rate", options.layer_dropout.rate}, {"grows", options.layer_dropout.grows}}},
          {"hidden", to_json(options.hidden)},
          {"tokens", options.tokens},
          {"tokens_per_step", options.tokens_per_step},
          {"context", options.context},
          {"micro_batch", options.micro_batch},
          {"learning_rate", options.optimiser.learning_rate},
          {"min_learning_rate", options.optimiser.min_learning_rate},
          {"warmup", options.optimiser.warmup},
          {"beta1", options.optimiser.beta1},
          {"beta2", options.optimiser.beta2},
          {"epsilon", options.optimiser.epsilon},
          {"weight_decay", options.optimiser.weight_decay},
          {"clip", options.optimiser.clip},
          {"gradient_checkpointing", options.gradient_checkpointing},
          {"bf16", options.bf16},
          {"seed", options.seed},
          {"bos", options.bos},
          {"within_documents", options.within_documents},
          {"guard",
           {{"on_nan", name_of(bad_steps, options.guard.on_nan)},
            {"on_spike", name_of(bad_steps, options.guard.on_spike)},
            {"spike_deviations", options.guard.spike_deviations}}},
          {"evaluate_every", options.evaluate_every},
          {"checkpoint_every", options.checkpoint_every},
          {"checkpoint_minutes", options.checkpoint_minutes},
          {"max_minutes", options.max_minutes},
          {"device", name_of(devices, options.device)},
          {"shard_optimiser", options.shard_optimiser}};
}

void check_options(const TrainOptions& options) {
  const auto check = [](const char* what, double value, double least, double most) {
    if (!(value >= least && value <= most)) {
      fail_usage("{} is {}, expected {} to {}", what, value, least, most);
    }
  };
  check("--lora-rank", static_cast<double>(options.lora.rank), 1, 65536);
  check("--lora-alpha", options.lora.alpha, 1e-6, 1e6);
  check("--ce", options.loss.cross_entropy, 0, 1e6);
  check("--distil", options.loss.divergence, 0, 1e6);
  check("--ce + --distil + --hidden",
        options.loss.cross_entropy + options.loss.divergence + options.hidden.weight, 1e-9, 3e6);
  check("--temperature", options.loss.temperature, 0.01, 100);
  check("--exit-alpha", options.exits.alpha, 0, 1e6);
  check("--exit-scale", options.exits.scale, 0, 1e6);
  check("--exit-rotation", static_cast<double>(options.exits.rotation), 1, 4096);
  check("--exit-ce", options.exits.cross_entropy, 0, 1e6);
  check("--exit-distil", options.exits.divergence, 0, 1e6);
  check("--exit-ce + --exit-distil", options.exits.cross_entropy + options.exits.divergence, 1e-9, 2e6);
  check("--layer-dropout", options.layer_dropout.rate, 0, 1);
  check("--hidden", options.hidden.weight, 0, 1e6);
  if ((options.hidden.weight > 0) != !options.hidden.pairs.empty()) {
    fail_usage("hidden states are learned by a weight above 0 and pairs of visits; got {} and {} pairs",
               options.hidden.weight, options.hidden.pairs.size());
  }
  check("--teacher-top-k", static_cast<double>(options.teacher_cache.top_k), 1, 1e6);
  if (!options.teacher_cache.folder.empty() && options.loss.divergence == 0) {
    fail_usage("a teacher's cache without distillation: name a --teacher, or leave --teacher-cache out");
  }
  if (!options.teacher_cache.folder.empty() &&
      (options.hidden.weight > 0 || options.loss.kind != Divergence::forward_kl)) {
    fail_usage(
        "a teacher's cache has its likeliest tokens: hidden states and divergences other than forward-kl "
        "need the teacher itself, leave --teacher-cache out");
  }
  check("--tokens", static_cast<double>(options.tokens), 1, 1e15);
  check("--batch-tokens", static_cast<double>(options.tokens_per_step), 1, 1e9);
  check("--context", static_cast<double>(options.context), 2, 1 << 20);
  check("--micro-batch", static_cast<double>(options.micro_batch), 1, 65536);
  check("--lr", options.optimiser.learning_rate, 0, 10);
  check("--min-lr", options.optimiser.min_learning_rate, 0, options.optimiser.learning_rate);
  check("--warmup", options.optimiser.warmup, 0, 1);
  check("beta1", options.optimiser.beta1, 0, 0.999999);
  check("beta2", options.optimiser.beta2, 0, 0.999999999);
  check("epsilon", options.optimiser.epsilon, 1e-30, 1);
  check("--weight-decay", options.optimiser.weight_decay, 0, 10);
  check("--clip", options.optimiser.clip, 0, 1e9);
  check("--spike", options.guard.spike_deviations, 0, 1e6);
  if (options.guard.on_nan == BadStep::note) {
    fail_usage("training cannot go on through a loss that is no number: skip such a step, or stop");
  }
  check("--eval-every", static_cast<double>(options.evaluate_every), 0, 1e9);
  check("--checkpoint-every", static_cast<double>(options.checkpoint_every), 0, 1e9);
  check("--checkpoint-minutes", options.checkpoint_minutes, 0, 1e7);
  check("--minutes", options.max_minutes, 0, 1e7);
  if (options.trainable == Trainable::lora && options.lora.targets.empty()) {
    fail_usage("LoRA without a target: name at least one of q, k, v, o, gate, up, down");
  }
}

}  // namespace fathom
