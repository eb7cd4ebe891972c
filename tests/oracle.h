// What Hugging Face transformers computed for the tiny models in tests/data/models (tests/oracle/README.md).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "formats/safetensors.h"

namespace fathom {

struct Oracle {
  std::filesystem::path model;  ///< a directory or a GGUF file, for load_checkpoint
  std::vector<std::int32_t> ids;
  std::vector<float> logits;               ///< [ids, vocab]
  std::vector<std::vector<float>> hidden;  ///< [L + 1][ids, hidden]; the last before the final norm
  float loss = 0;                          ///< mean cross-entropy of ids 1..
  std::map<std::string, std::vector<float>> gradients;  ///< by canonical name; none for GGUF files
};

/// All of them, in alphabetical order.
inline std::vector<std::string> oracle_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(FATHOM_TEST_DATA "/models"))
    if (entry.is_directory()) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

inline Oracle load_oracle(const std::string& name) {
  const auto folder = std::filesystem::path(FATHOM_TEST_DATA) / "models" / name;
  const TensorMap tensors = read_safetensors(folder / "oracle.safetensors");
  Oracle oracle;
  oracle.model = folder;
  for (const char* gguf : {"model.gguf", "model-00002-of-00003.gguf"})
    if (std::filesystem::exists(folder / gguf)) oracle.model = folder / gguf;
  oracle.ids = read_json(folder / "oracle.json").at("ids").get<std::vector<std::int32_t>>();
  oracle.logits = decode(tensors.at("logits"));
  oracle.loss = decode(tensors.at("loss")).at(0);
  for (std::size_t i = 0;; ++i) {
    const auto hidden = tensors.find("hidden." + std::to_string(i));
    if (hidden == tensors.end()) break;
    oracle.hidden.push_back(decode(hidden->second));
  }
  for (const auto& [key, tensor] : tensors)
    if (key.starts_with("grad.")) oracle.gradients[key.substr(5)] = decode(tensor);
  return oracle;
}

/// The largest |a - b|; infinite where the sizes differ or a value is NaN, so that EXPECT_LT(..., tolerance)
/// says all.
inline float largest_difference(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size()) return std::numeric_limits<float>::infinity();
  float largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const float difference = std::abs(a[i] - b[i]);
    if (std::isnan(difference)) return std::numeric_limits<float>::infinity();
    largest = std::max(largest, difference);
  }
  return largest;
}

/// The same in units of the largest expected value.
inline float relative_difference(std::span<const float> found, std::span<const float> expected) {
  float largest = 0;
  for (const float value : expected) largest = std::max(largest, std::abs(value));
  return largest_difference(found, expected) / largest;
}

}  // namespace fathom
