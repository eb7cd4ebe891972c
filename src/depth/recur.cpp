#include "depth/recur.h"

#include <algorithm>
#include <functional>
#include <iterator>
#include <mutex>
#include <utility>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/threads.h"
#include "depth/calibrate.h"
#include "depth/fold_norms.h"
#include "depth/provenance.h"
#include "depth/tie.h"
#include "measure/observed_windows.h"
#include "runtime/model.h"

namespace fathom {
namespace {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// Depths that become one layer.
struct Group {
  std::int64_t layer = 0;            ///< in the recursive model
  std::vector<std::int64_t> visits;  ///< depths; ascending
  std::int64_t pick = 0;             ///< the depth that stepwise and lower copy
  bool tied() const { return visits.size() > 1; }
};

std::vector<Group> group_depths(std::int64_t depth, const RecurOptions& options) {
  const auto layers = share_layers(depth, options.loops, options.sharing);
  std::vector<Group> groups(static_cast<std::size_t>(*std::max_element(layers.begin(), layers.end()) + 1));
  for (std::size_t l = 0; l < layers.size(); ++l) {
    Group& group = groups[static_cast<std::size_t>(layers[l])];
    group.layer = layers[l];
    group.visits.push_back(static_cast<std::int64_t>(l));
  }
  const auto unique = std::count_if(groups.begin(), groups.end(), [](const Group& g) { return g.tied(); });
  std::int64_t first = -1, index = 0;
  for (Group& group : groups) {
    group.pick = group.visits.front();
    if (!group.tied()) continue;
    if (first < 0) first = group.pick;
    // Regular intervals, the first and the last of the tied depths among them (arXiv 2410.20672, fig. 2).
    if (options.init == SharedInit::stepwise && unique > 1) {
      group.pick = first + (unique * options.loops - 1) * index / (unique - 1);
    }
    ++index;
  }
  return groups;
}

/// Results keep the type of what they came from, where that is written; quantised weights become bf16.
DType result_type(const Tensor& source) { return written_type(source.dtype, DType::bf16); }

class Recursion {
 public:
  Recursion(const Checkpoint& checkpoint, const RecurOptions& options)
      : checkpoint_(checkpoint), options_(options), groups_(group_depths(checkpoint.plan.depth(), options)) {}

  /// Calibrated with `moments`, or where that is null with what `ids` give.
  Checkpoint run(std::span<const Token> ids, SecondMoments* moments, FitReport& report);

 private:
  void make_plan();
  void copy_untied(const Group& group);
  Tensor tied_vector(const Group& group, const std::string& name) const;
  void tie_norms(const Group& group);
  void tie_biases(const Group& group);
  NamedTensors tie_matrix(const Group& group, Linear linear, const InputStatistics& inputs,
                          FitReport& report);
  void tie_matrices(std::span<const Group> groups, SecondMoments* moments, FitReport& report);
  void calibrate(std::span<const Group> tied, std::span<const Token> ids, FitReport& report);

  std::int64_t source_layer(std::int64_t visit) const {
    return checkpoint_.plan.visits[static_cast<std::size_t>(visit)].layer;
  }
  std::int64_t adapter(std::int64_t visit) const {
    return result_.plan.visits[static_cast<std::size_t>(visit)].adapter;
  }
  bool calibrated() const { return options_.init == SharedInit::calibrated; }

  const Checkpoint& checkpoint_;
  const RecurOptions& options_;
  std::vector<Group> groups_;
  Checkpoint result_;
};

void Recursion::make_plan() {
  result_.plan.layers = static_cast<std::int64_t>(groups_.size());
  result_.plan.visits = checkpoint_.plan.visits;
  for (const Group& group : groups_) {
    for (const std::int64_t l : group.visits) {
      result_.plan.visits[static_cast<std::size_t>(l)].layer = group.layer;
    }
  }
  std::int64_t adapters = 0;
  for (Visit& visit : result_.plan.visits) {
    const bool tied = groups_[static_cast<std::size_t>(visit.layer)].tied();
    visit.adapter = tied && options_.rank > 0 ? adapters++ : -1;
  }
}

void Recursion::copy_untied(const Group& group) {
  const std::string from = layer_name(source_layer(group.visits.front()), "");
  for (auto it = checkpoint_.tensors.lower_bound(from);
       it != checkpoint_.tensors.end() && it->first.starts_with(from); ++it) {
    result_.tensors.emplace(layer_name(group.layer, it->first.substr(from.size())), it->second);
  }
}

/// One norm or bias for a group: the mean, or the picked depth's.
Tensor Recursion::tied_vector(const Group& group, const std::string& name) const {
  const Tensor& like = checkpoint_.layer_tensor(source_layer(group.pick), name);
  std::vector<float> shared = decode(like);
  if (options_.init == SharedInit::average || calibrated()) {
    std::fill(shared.begin(), shared.end(), 0.0F);
    for (const std::int64_t l : group.visits) {
      const std::vector<float> own = decode(checkpoint_.layer_tensor(source_layer(l), name));
      for (std::size_t i = 0; i < shared.size(); ++i) {
        shared[i] += own[i] / static_cast<float>(group.visits.size());
      }
    }
  }
  return make_tensor(result_type(like), like.shape, shared);
}

/// Gains before linear maps are in the matrices already. Other norms are the visit's own in a relaxed model
/// and tied like matrices in a plain recursive one.
void Recursion::tie_norms(const Group& group) {
  const ModelConfig& config = checkpoint_.config;
  for (const NormInfo& norm : layer_norms(config)) {
    const std::string name = norm.name + ".weight";
    if (is_foldable(config, norm.name)) {
      const std::vector<float> neutral(static_cast<std::size_t>(norm.width), neutral_norm(config));
      result_.tensors.emplace(layer_name(group.layer, name), make_tensor(DType::f32, {norm.width}, neutral));
      continue;
    }
    result_.tensors.emplace(layer_name(group.layer, name), tied_vector(group, name));
    for (const std::int64_t l : group.visits) {
      if (adapter(l) < 0) continue;
      result_.tensors.emplace(adapter_name(adapter(l), name),
                              checkpoint_.layer_tensor(source_layer(l), name));
    }
  }
}

/// Biases are tied, and what a depth misses goes into a bias of its pair (PEFT's lora_bias).
void Recursion::tie_biases(const Group& group) {
  for (const Linear linear : all_linears) {
    if (!has_bias(checkpoint_.config, linear)) continue;
    const std::string name = linear_name(linear);
    const Tensor tensor = tied_vector(group, name + ".bias");
    result_.tensors.emplace(layer_name(group.layer, name + ".bias"), tensor);
    const std::vector<float> shared = decode(tensor);
    for (const std::int64_t l : group.visits) {
      if (adapter(l) < 0 || options_.lora == LoraInit::zero) continue;
      std::vector<float> own = decode(checkpoint_.layer_tensor(source_layer(l), name + ".bias"));
      std::transform(own.begin(), own.end(), shared.begin(), own.begin(), std::minus<>());
      result_.tensors.emplace(adapter_name(adapter(l), name + ".lora_B.bias"),
                              make_tensor(tensor.dtype, tensor.shape, own));
    }
  }
}

NamedTensors Recursion::tie_matrix(const Group& group, Linear linear, const InputStatistics& inputs,
                                   FitReport& report) {
  check_interrupt();
  const auto index = static_cast<std::size_t>(linear);
  Random random(options_.seed + static_cast<std::uint64_t>(group.layer) * std::size(all_linears) + index);
  std::vector<Matrix> weights;
  for (const std::int64_t l : group.visits) {
    weights.push_back(folded_weight(checkpoint_, source_layer(l), linear));
  }
  const std::int64_t fitted_rank = options_.lora == LoraInit::svd ? options_.rank : 0;
  TiedMatrix tied;
  if (calibrated()) {
    tied = tie_calibrated(weights, inputs, fitted_rank, options_.rounds, random);
  } else {
    Matrix shared = folded_weight(checkpoint_, source_layer(group.pick), linear);
    if (options_.init == SharedInit::average) shared = mean(weights);
    tied = relax_by_svd(std::move(shared), weights, fitted_rank, random);
  }
  if (options_.lora == LoraInit::zero) {
    tied = relax_by_zero(std::move(tied.shared), weights.size(), options_.rank, random);
  }

  const std::string name = std::string(linear_name(linear)) + ".";
  const auto errors = relative_errors(weights, tied, inputs.moments);
  const DType type = result_type(checkpoint_.layer_tensor(source_layer(group.pick), name + "weight"));
  NamedTensors tensors{{layer_name(group.layer, name + "weight"), to_tensor(type, tied.shared)}};
  for (std::size_t i = 0; i < group.visits.size(); ++i) {
    const std::int64_t l = group.visits[i];
    report.error[static_cast<std::size_t>(l)][index] = errors[i];
    if (adapter(l) < 0) continue;
    tensors.emplace_back(adapter_name(adapter(l), name + "lora_A.weight"), to_tensor(type, tied.own[i].a));
    tensors.emplace_back(adapter_name(adapter(l), name + "lora_B.weight"), to_tensor(type, tied.own[i].b));
  }
  return tensors;
}

/// The matrices of some groups, side by side on all threads. `moments` is null unless calibrated.
void Recursion::tie_matrices(std::span<const Group> groups, SecondMoments* moments, FitReport& report) {
  const auto& inputs = shared_inputs();
  const std::size_t jobs = groups.size() * inputs.size();
  std::vector<NamedTensors> made(jobs);
  Progress progress("tying", static_cast<std::int64_t>(groups.size() * std::size(all_linears)), "matrices");
  std::mutex progress_mutex;
  parallel_for(static_cast<std::int64_t>(jobs), [&](std::int64_t job) {
    const Group& group = groups[static_cast<std::size_t>(job) / inputs.size()];
    const SharedInput& input = inputs[static_cast<std::size_t>(job) % inputs.size()];
    InputStatistics statistics;
    if (moments != nullptr) {
      std::vector<Matrix> of_depths;
      for (const std::int64_t l : group.visits) {
        const auto gain = gain_before(checkpoint_, source_layer(l), input.readers.front());
        of_depths.push_back(moments->take(input.tap, l, gain));
      }
      statistics = input_statistics(std::move(of_depths));
    }
    for (const Linear linear : input.readers) {
      NamedTensors tensors = tie_matrix(group, linear, statistics, report);
      auto& all = made[static_cast<std::size_t>(job)];
      std::move(tensors.begin(), tensors.end(), std::back_inserter(all));
      const std::scoped_lock lock(progress_mutex);
      progress.advance(1);
    }
  });
  for (NamedTensors& tensors : made) {
    for (auto& [name, tensor] : tensors) result_.tensors.emplace(name, std::move(tensor));
  }
}

Checkpoint Recursion::run(std::span<const Token> ids, SecondMoments* moments, FitReport& report) {
  result_.source = checkpoint_.source;
  result_.config = checkpoint_.config;
  result_.hf_config = checkpoint_.hf_config;
  result_.provenance = checkpoint_.provenance;
  make_plan();
  for (const auto& [name, tensor] : checkpoint_.tensors) {
    if (!name.starts_with("model.layers.")) result_.tensors.emplace(name, tensor);
  }
  report.error.assign(checkpoint_.plan.visits.size(), std::vector<double>(std::size(all_linears), 0.0));
  std::vector<Group> tied;
  for (const Group& group : groups_) {
    if (!group.tied()) {
      copy_untied(group);
      continue;
    }
    tie_norms(group);
    tie_biases(group);
    tied.push_back(group);
  }
  if (calibrated() && moments == nullptr) {
    calibrate(tied, ids, report);
  } else {
    tie_matrices(tied, calibrated() ? moments : nullptr, report);
  }
  return std::move(result_);
}

/// Measures and ties as many groups at once as their moments fit into a few gigabytes; the text is run again
/// for the next.
void Recursion::calibrate(std::span<const Group> tied, std::span<const Token> ids, FitReport& report) {
  if (tied.empty()) return;
  constexpr std::int64_t most_bytes = std::int64_t{4} << 30;
  const std::int64_t group_bytes = options_.loops * moment_bytes(checkpoint_.config);
  const auto at_once = static_cast<std::size_t>(std::max<std::int64_t>(1, most_bytes / group_bytes));
  Engine engine(checkpoint_, {.compute = float_compute(checkpoint_), .max_context = 0});
  const auto context = std::min(options_.context, engine.max_context() - (options_.bos >= 0 ? 1 : 0));
  const auto text = ids.first(std::min(ids.size(), static_cast<std::size_t>(options_.calibration_tokens)));
  for (std::size_t first = 0; first < tied.size(); first += at_once) {
    const auto groups = tied.subspan(first, std::min(at_once, tied.size() - first));
    std::vector<std::int64_t> visits;
    for (const Group& group : groups) visits.insert(visits.end(), group.visits.begin(), group.visits.end());
    SecondMoments moments(visits);
    run_windows(engine, text, context, options_.bos, "calibrating", moments);
    tie_matrices(groups, &moments, report);
  }
}

/// For the provenance: mean error over the tied depths, by linear map.
Json mean_errors(const FitReport& report, const DepthPlan& plan) {
  Json means = Json::object();
  for (const Linear linear : all_linears) {
    double sum = 0;
    int count = 0;
    for (std::size_t l = 0; l < report.error.size(); ++l) {
      const auto layer = plan.visits[l].layer;
      const bool tied = std::count_if(plan.visits.begin(), plan.visits.end(),
                                      [&](const Visit& v) { return v.layer == layer; }) > 1;
      if (!tied) continue;
      sum += report.error[l][static_cast<std::size_t>(linear)];
      ++count;
    }
    means[linear_name(linear)] = count > 0 ? sum / count : 0;
  }
  return means;
}

void check_options(const Checkpoint& checkpoint, const RecurOptions& options) {
  if (!checkpoint.plan.is_plain()) {
    fail_usage("{} is not a plain model ({}): only layers that each run once can be tied",
               checkpoint.source.string(), checkpoint.plan.describe());
  }
  if (options.rank < 0) fail_usage("the rank is {}, expected 0 (no adapters) or more", options.rank);
  if (options.rounds < 0) fail_usage("the rounds are {}, expected 0 or more", options.rounds);
}

Checkpoint recursive(const Checkpoint& checkpoint, const RecurOptions& options, std::span<const Token> ids,
                     SecondMoments* moments, FitReport* report) {
  check_options(checkpoint, options);
  FitReport own_report;
  FitReport& errors = report != nullptr ? *report : own_report;
  Checkpoint result = Recursion(checkpoint, options).run(ids, moments, errors);
  Json choices{{"loops", options.loops},        {"share", name_of(options.sharing)},
               {"init", name_of(options.init)}, {"lora", name_of(options.lora)},
               {"rank", options.rank},          {"seed", options.seed}};
  if (options.init == SharedInit::calibrated) {
    choices["rounds"] = options.rounds;
    choices["calibration_tokens"] = moments != nullptr
                                        ? options.calibration_tokens
                                        : std::min(options.calibration_tokens, std::ssize(ids));
  }
  add_provenance(result, "recur", std::move(choices),
                 Json{{"relative_error", mean_errors(errors, result.plan)}});
  validate(result);
  return result;
}

}  // namespace

Checkpoint recur(const Checkpoint& checkpoint, const RecurOptions& options, std::span<const Token> ids,
                 FitReport* report) {
  return recursive(checkpoint, options, ids, nullptr, report);
}

Checkpoint recur(const Checkpoint& checkpoint, const RecurOptions& options, SecondMoments& moments,
                 FitReport* report) {
  return recursive(checkpoint, options, {}, &moments, report);
}

std::vector<std::int64_t> tied_visits(const Checkpoint& checkpoint, const RecurOptions& options) {
  std::vector<std::int64_t> visits;
  for (const Group& group : group_depths(checkpoint.plan.depth(), options))
    if (group.tied()) visits.insert(visits.end(), group.visits.begin(), group.visits.end());
  std::ranges::sort(visits);
  return visits;
}

double round_operations(const Checkpoint& checkpoint, const RecurOptions& options) {
  double multiplications = 0;
  for (const Linear linear : all_linears) {
    const auto out = static_cast<double>(out_features(checkpoint.config, linear)),
               in = static_cast<double>(in_features(checkpoint.config, linear)),
               rank = std::min({static_cast<double>(options.rank), out, in});
    multiplications += 4 * rank * (2 * out * in + in * in);
  }
  return 2 * multiplications * static_cast<double>(tied_visits(checkpoint, options).size());
}

}  // namespace fathom
