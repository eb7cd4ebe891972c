#include "cli/train_presets.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

namespace fathom {
namespace {

struct Preset {
  const char* name;
  std::int64_t context;
  double learning_rate;
  std::int64_t rank;
};

// Gromov et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers" (arXiv 2403.17887), appendix A:
// what differs between the models.
constexpr Preset presets[] = {
    {"llama-2-7b", 2048, 3e-4, 2}, {"llama-2-13b", 4096, 3e-4, 64}, {"llama-2-70b", 4096, 3e-5, 8},
    {"qwen-7b", 2048, 3e-4, 64},   {"qwen-14b", 4096, 3e-4, 64},    {"mistral-7b", 2048, 3e-6, 4},
    {"phi-2", 2048, 2e-4, 64},
};

}  // namespace

std::vector<std::string> train_presets() {
  std::vector<std::string> names;
  for (const Preset& preset : presets) names.emplace_back(preset.name);
  return names;
}

std::string train_preset(const std::string& name) {
  const Preset& preset = *std::ranges::find(presets, name, &Preset::name);
  // And what does not: 5,000 steps of 16 sequences, 100 of warm-up, QLoRA on the feed-forwards with alpha =
  // rank. Their dropout of 0.05 is not here.
  const std::int64_t batch = 16 * preset.context;
  return fmt::format(
      "train = 'lora'\nbase = 'nf4'\nlora-targets = ['gate', 'up', 'down']\nlora-rank = {0}\nlora-alpha = "
      "{0}\n"
      "context = {1}\nbatch-tokens = {2}\ntokens = {3}\nlr = {4}\nwarmup = 0.02\n",
      preset.rank, preset.context, batch, 5'000 * batch, preset.learning_rate);
}

}  // namespace fathom
