// What files call the tensors of a Hugging Face model.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "formats/safetensors.h"

namespace fathom {

/// The way from a file's names to canonical ones (model/checkpoint.h): names may stand under whatever the
/// model was part of when it was saved ("_orig_mod.", "module.", "model.language_model.", "model." once too
/// often), or lack the "model." of the class for causal language models.
class TensorNames {
 public:
  explicit TensorNames(const SafetensorsContent& content);

  /// Nothing for what a language model does not use: a vision tower, or rotary tables that old versions
  /// stored. A name that is no part of a model stays as it is.
  std::optional<std::string> canonical(std::string_view name) const;

 private:
  std::string body_ = "model.";  ///< what stands before "layers.0.", wrappers apart
};

}  // namespace fathom
