// Checkpoints to GGUF files, for llama.cpp and what is built on it.
#pragma once

#include <filesystem>
#include <optional>

#include "model/checkpoint.h"

namespace fathom {

/// Whether its plan is one that GGUF has words for: a plain one, or, of a Llama, all layers in their order
/// several times without adapters, which is llama.cpp's architecture nanbeige. Others are unrolled first
/// (depth/unroll.h).
bool fits_gguf(const Checkpoint& checkpoint);

/// Writes a model, its tokenizer and its chat template as one GGUF file, which llama.cpp runs:
/// architectures llama (Mistral too), qwen2, qwen3, gemma, gemma2 and gemma3, with keys and tensors as
/// llama.cpp's converter writes them. Matrices become `type` (f32, f16, bf16, or a type that can_quantise),
/// or what they are in the checkpoint where none is given; vectors become float32.
/// With a type of 4 bits the head (where tied, the embedding) gets Q8_0; rows that are no whole blocks get
/// Q5_0, or f16. What Gemma 2 and 3 scale scores by, where llama.cpp would take another number, goes into q
/// or its norm. `file` must be new, or `overwrite` given. It appears as a whole or not at all, and is read
/// back and compared with the checkpoint's configuration before. Throws Error, also for what GGUF has no
/// words for (a plan that is not plain, windows or rotary scalings that llama.cpp's architecture does not
/// have), naming the field and the remedy; Interrupted on Ctrl-C.
void save_gguf(const Checkpoint& checkpoint, const std::filesystem::path& file, bool overwrite = false,
               std::optional<DType> type = std::nullopt);

/// The check that save_gguf begins with, for those who work long before they save.
void check_gguf_target(const std::filesystem::path& file, bool overwrite);

}  // namespace fathom
