// LoRA as Hugging Face's PEFT keeps it: adapter_config.json and adapter_model.safetensors beside a base
// model.
#pragma once

#include <filesystem>

#include "model/checkpoint.h"

namespace fathom {

/// Writes the adapters of a model whose visits each have a layer of their own, so that PEFT puts them on the
/// model without them: r and lora_alpha are equal (a scale of 1), other ranks stand in rank_pattern.
/// `directory` must be new or empty, or hold PEFT's adapters if `overwrite`; it appears as a whole or not at
/// all. Throws Error for what PEFT has no words for: layers that several visits share, norms of a visit's
/// own.
void save_peft(const Checkpoint& checkpoint, const std::filesystem::path& directory, bool overwrite = false);

/// The check that save_peft begins with, for those who work long before they save.
void check_peft_target(const std::filesystem::path& directory, bool overwrite);

/// `model`, which is plain, with the adapters of a directory that PEFT wrote, each scaled by its alpha / r.
/// Throws Error naming file and field: other methods than LoRA, DoRA, trained embeddings or whole modules,
/// adapters of matrices that the model does not have.
Checkpoint with_peft(const Checkpoint& model, const std::filesystem::path& directory);

}  // namespace fathom
