#include "depth/prune.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <numeric>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "depth/choose_by_loss.h"
#include "depth/provenance.h"

namespace fathom {
namespace {

/// Old index to new, in ascending order, of the indices that are still in use.
std::map<std::int64_t, std::int64_t> renumbering(const std::vector<Visit>& visits,
                                                 std::int64_t Visit::*index) {
  std::map<std::int64_t, std::int64_t> numbers;
  for (const Visit& visit : visits) {
    if (visit.*index >= 0) numbers[visit.*index] = 0;
  }
  std::int64_t next = 0;
  for (auto& [old_number, new_number] : numbers) new_number = next++;
  return numbers;
}

/// Moves the tensors "PREFIX<old>.REST" of `from` under their new numbers.
void copy_renumbered(const TensorMap& from, std::string (*name_of)(std::int64_t, const std::string&),
                     const std::map<std::int64_t, std::int64_t>& numbers, TensorMap& to) {
  for (const auto& [old_number, new_number] : numbers) {
    const std::string prefix = name_of(old_number, "");
    for (auto it = from.lower_bound(prefix); it != from.end() && it->first.starts_with(prefix); ++it) {
      to.emplace(name_of(new_number, it->first.substr(prefix.size())), it->second);
    }
  }
}

std::vector<std::int64_t> block(std::int64_t first, std::int64_t count) {
  std::vector<std::int64_t> visits(static_cast<std::size_t>(count));
  std::iota(visits.begin(), visits.end(), first);
  return visits;
}

std::vector<std::int64_t> least_influential(const Profile& profile, std::int64_t count) {
  std::vector<std::int64_t> visits = block(0, profile.depth);
  std::stable_sort(visits.begin(), visits.end(), [&](std::int64_t a, std::int64_t b) {
    return profile.block_influence[static_cast<std::size_t>(a)] <
           profile.block_influence[static_cast<std::size_t>(b)];
  });
  visits.resize(static_cast<std::size_t>(count));
  std::sort(visits.begin(), visits.end());
  return visits;
}

std::vector<std::int64_t> least_influential_block(const Profile& profile, std::int64_t count) {
  std::int64_t best = 0;
  double least = std::numeric_limits<double>::infinity();
  for (std::int64_t first = 0; first + count <= profile.depth; ++first) {
    const auto begin = profile.block_influence.begin() + first;
    const double sum = std::accumulate(begin, begin + count, 0.0);
    if (sum < least) {
      least = sum;
      best = first;
    }
  }
  return block(best, count);
}

constexpr std::pair<const char*, PruneMethod> methods[] = {{"similarity", PruneMethod::similarity},
                                                           {"last", PruneMethod::last},
                                                           {"influence", PruneMethod::influence},
                                                           {"influence-block", PruneMethod::influence_block},
                                                           {"perplexity", PruneMethod::perplexity}};

}  // namespace

Checkpoint with_visits(const Checkpoint& checkpoint, std::span<const std::int64_t> visits) {
  Checkpoint result;
  result.source = checkpoint.source;
  result.config = checkpoint.config;
  result.hf_config = checkpoint.hf_config;
  result.provenance = checkpoint.provenance;
  for (const std::int64_t visit : visits)
    result.plan.visits.push_back(checkpoint.plan.visits[static_cast<std::size_t>(visit)]);
  const auto layers = renumbering(result.plan.visits, &Visit::layer);
  const auto adapters = renumbering(result.plan.visits, &Visit::adapter);
  result.plan.layers = static_cast<std::int64_t>(layers.size());
  for (Visit& visit : result.plan.visits) {
    visit.layer = layers.at(visit.layer);
    if (visit.adapter >= 0) visit.adapter = adapters.at(visit.adapter);
  }
  for (const auto& [name, tensor] : checkpoint.tensors) {
    if (!name.starts_with("model.layers.") && !name.starts_with("model.adapters.")) {
      result.tensors.emplace(name, tensor);
    }
  }
  copy_renumbered(checkpoint.tensors, layer_name, layers, result.tensors);
  copy_renumbered(checkpoint.tensors, adapter_name, adapters, result.tensors);
  return result;
}

Checkpoint prune(const Checkpoint& checkpoint, std::span<const std::int64_t> visits, Json measurements) {
  const std::int64_t depth = checkpoint.plan.depth();
  std::vector<bool> dropped(static_cast<std::size_t>(depth), false);
  for (const std::int64_t visit : visits) {
    if (visit < 0 || visit >= depth) {
      fail_usage("layer {} cannot be dropped: the model has layers 0 to {}", visit, depth - 1);
    }
    if (dropped[static_cast<std::size_t>(visit)]) fail_usage("layer {} is to be dropped twice", visit);
    dropped[static_cast<std::size_t>(visit)] = true;
  }
  if (static_cast<std::int64_t>(visits.size()) == depth) fail_usage("no layer would be left");

  std::vector<std::int64_t> kept;
  for (std::int64_t visit = 0; visit < depth; ++visit)
    if (!dropped[static_cast<std::size_t>(visit)]) kept.push_back(visit);
  Checkpoint result = with_visits(checkpoint, kept);
  add_provenance(result, "prune", Json{{"layers", std::vector<std::int64_t>(visits.begin(), visits.end())}},
                 std::move(measurements));
  validate(result);
  return result;
}

PruneMethod prune_method(const std::string& name) {
  std::string names;
  for (const auto& [known, method] : methods) {
    if (name == known) return method;
    names += (names.empty() ? "" : ", ") + std::string(known);
  }
  fail_usage("the method is '{}', expected one of: {}", name, names);
}

void check_drop(const Checkpoint& checkpoint, std::int64_t count) {
  const std::int64_t depth = checkpoint.plan.depth();
  if (count < 1 || count > depth - 2) {
    fail_usage("{} layers cannot be dropped from {}: expected 1 to {}", count, depth, depth - 2);
  }
}

VisitChoice choose_visits(const Checkpoint& checkpoint, std::int64_t count, PruneMethod method,
                          std::span<const Token> ids, const ProfileOptions& options) {
  check_drop(checkpoint, count);
  if (method == PruneMethod::last) return {block(checkpoint.plan.depth() - 1 - count, count), Json::object()};
  if (method == PruneMethod::perplexity) return choose_by_loss(checkpoint, count, ids, options);
  const Profile profile = profile_depth(checkpoint, ids, options);
  if (method == PruneMethod::similarity) {
    const std::int64_t first = most_similar_block(profile, count);
    const double distance =
        profile.angular[static_cast<std::size_t>(count - 1)][static_cast<std::size_t>(first)];
    return {block(first, count), Json{{"angular_distance", distance}, {"tokens", profile.tokens}}};
  }
  VisitChoice choice;
  choice.visits = method == PruneMethod::influence ? least_influential(profile, count)
                                                   : least_influential_block(profile, count);
  Json influence = Json::array();
  for (const std::int64_t visit : choice.visits) {
    influence.push_back(profile.block_influence[static_cast<std::size_t>(visit)]);
  }
  choice.measurements = Json{{"block_influence", std::move(influence)}, {"tokens", profile.tokens}};
  return choice;
}

std::vector<std::int64_t> parse_layers(const std::string& text, std::int64_t depth) {
  std::vector<std::int64_t> layers;
  const auto number = [&](std::string_view digits) {
    std::int64_t value = 0;
    const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (status != std::errc() || end != digits.data() + digits.size() || value < 0) {
      fail_usage("the layers are '{}', expected numbers and ranges such as 21-28,30", text);
    }
    if (value >= depth) fail_usage("layer {} does not exist: the model has layers 0 to {}", value, depth - 1);
    return value;
  };
  std::string_view rest = text;
  while (true) {
    const std::size_t comma = rest.find(',');
    const std::string_view part = rest.substr(0, comma);
    const std::size_t dash = part.find('-');
    const std::int64_t first = number(part.substr(0, dash));
    const std::int64_t last = dash == std::string_view::npos ? first : number(part.substr(dash + 1));
    if (last < first) fail_usage("the range {} of layers ends before it begins", part);
    for (std::int64_t layer = first; layer <= last; ++layer) {
      if (std::find(layers.begin(), layers.end(), layer) != layers.end()) {
        fail_usage("layer {} is named twice in '{}'", layer, text);
      }
      layers.push_back(layer);
    }
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  std::sort(layers.begin(), layers.end());
  return layers;
}

}  // namespace fathom
