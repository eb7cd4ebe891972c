// The depth plan: in which order a token visits the layers, with which adapter, and where it may stop.
//
// A model owns `layers` layers (weights). A visit is one step in depth. Plain: each layer once. Pruned:
// fewer. Recursive: layers visited several times (Bae et al. 2024, arXiv 2410.20672, eq. 2); relaxed
// recursive: each visit with its own LoRA pair (eq. 3). Everything else in Fathom speaks of visits and needs
// no word for the scheme.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"

namespace fathom {

struct Visit {
  std::int64_t layer = 0;     ///< whose weights run
  std::int64_t adapter = -1;  ///< which set of low-rank pairs is added; -1: none
  std::int64_t type =
      0;  ///< index into ModelConfig::attention_types: windows and rotary bases belong to the depth
  bool exit = false;  ///< the model may stop after it: final norm and head may read the hidden state here

  bool operator==(const Visit&) const = default;
};

struct DepthPlan {
  std::int64_t layers = 0;
  std::vector<Visit> visits;

  std::int64_t depth() const { return static_cast<std::int64_t>(visits.size()); }
  /// Each layer once, in order, without adapters: what plain transformers run. (`exit` flags do not matter
  /// here.)
  bool is_plain() const;
  /// True if some layer is visited more than once.
  bool is_recursive() const;
  std::int64_t adapters() const;  ///< one more than the largest adapter index
  /// "30 layers", "26 of 30 layers", "15 layers × 2 (sequence), 30 adapters": for people.
  std::string describe() const;

  bool operator==(const DepthPlan&) const = default;
};

/// Plain plan; `types` has one attention type a layer.
DepthPlan plain_plan(const std::vector<std::int64_t>& types);

/// {"layers": 15, "visits": [{"layer": 0, "adapter": 0}, ...]}; defaults are left out when written.
Json to_json(const DepthPlan& plan);
/// Throws Error naming file and field; indices are checked against `layers`, `attention_types` and a limit of
/// 4096 visits.
DepthPlan plan_from_json(const JsonObject& json, std::int64_t attention_types);

}  // namespace fathom
