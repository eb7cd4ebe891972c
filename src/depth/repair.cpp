#include "depth/repair.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/progress.h"
#include "depth/layerwise.h"
#include "depth/provenance.h"
#include "depth/regression.h"
#include "depth/tie.h"

namespace fathom {
namespace {

constexpr std::int64_t visits_behind = 2;

const Visit& visit_of(const Checkpoint& checkpoint, std::int64_t visit) {
  return checkpoint.plan.visits[static_cast<std::size_t>(visit)];
}

/// Both run the same tensors there.
bool same_visit(const Checkpoint& original, const Checkpoint& changed, std::int64_t visit) {
  if (visit_of(original, visit) != visit_of(changed, visit)) return false;
  const std::string prefix = layer_name(visit_of(original, visit).layer, "");
  for (auto it = original.tensors.lower_bound(prefix);
       it != original.tensors.end() && it->first.starts_with(prefix); ++it) {
    const Tensor* tensor = changed.find(it->first);
    if (tensor == nullptr || tensor->data.data() != it->second.data.data()) return false;
  }
  return true;
}

bool has_pair(const Checkpoint& checkpoint, std::int64_t visit, Linear linear) {
  const std::int64_t adapter = visit_of(checkpoint, visit).adapter;
  return adapter >= 0 &&
         checkpoint.adapter_tensor(adapter, std::string(linear_name(linear)) + ".lora_B.weight") != nullptr;
}

/// Gathers what a linear map reads, and what is missing behind its visit.
class MissingBehind : public Observer {
 public:
  /// `target` [rows, width] must outlive it; windows of the last eighth of the rows are held out.
  MissingBehind(Linear linear, const ModelConfig& config, std::span<const float> target)
      : input_(linear == Linear::o ? Tap::attention_mixed : Tap::ffn_gated),
        target_(target),
        width_(config.hidden_size),
        fitted_(in_features(config, linear), config.hidden_size),
        held_out_(fitted_) {}

  void observe(Tap tap, std::int64_t, std::int64_t rows, std::span<const float> values) override {
    if (tap == input_) x_.assign(values.begin(), values.end());
    if (tap != Tap::visit_output) return;
    const auto target = target_.subspan(seen_, values.size());
    missing_.resize(values.size());
    weights_.resize(static_cast<std::size_t>(rows));
    for (std::size_t row = 0; row < weights_.size(); ++row) {
      double squares = 0;
      const std::size_t first = row * static_cast<std::size_t>(width_);
      for (std::size_t i = first; i < first + static_cast<std::size_t>(width_); ++i) {
        missing_[i] = target[i] - values[i];
        squares += static_cast<double>(target[i]) * static_cast<double>(target[i]);
      }
      weights_[row] = static_cast<float>(1 / std::sqrt(std::max(squares, 1e-12)));
    }
    const std::size_t kept = target_.size() / 8 * 7;  // what lies behind is held out
    const std::size_t split =
        std::min(values.size(), kept - std::min(kept, seen_)) / static_cast<std::size_t>(width_);
    add_rows(0, split, fitted_);
    add_rows(split, weights_.size(), held_out_);
    seen_ += values.size();
  }

  struct Fit {
    RidgeFit ridge;  ///< its map is fitted to all rows
    Matrix moments;  ///< of what the linear map reads
  };
  Fit fit() {
    constexpr double ridges[] = {1e-3, 1e-2, 1e-1, 1};
    Fit result{fit_ridge(fitted_, held_out_, ridges, even_penalty), Matrix()};
    fitted_.add(held_out_);
    result.ridge.map = fitted_.solve(even_penalty(fitted_.sizes(), result.ridge.ridge));
    result.moments = fitted_.moments();
    return result;
  }

 private:
  void add_rows(std::size_t first, std::size_t last, RegressionSums& sums) {
    const auto rows = [&](const std::vector<float>& values) {
      const std::size_t width = values.size() / weights_.size();
      return std::span(values).subspan(first * width, (last - first) * width);
    };
    sums.add(rows(x_), rows(missing_), rows(weights_));
  }

  Tap input_;
  std::span<const float> target_;
  std::int64_t width_;
  RegressionSums fitted_, held_out_;
  std::vector<float> x_, missing_, weights_;
  std::size_t seen_ = 0;  // values of the target
};

void replace(Tensor& tensor, const Matrix& values) {
  tensor = to_tensor(written_type(tensor.dtype, DType::bf16), values);
}

/// W + step ΔW, in the visit's own pair if it has one.
void change(Checkpoint& checkpoint, std::int64_t visit, Linear linear, const MissingBehind::Fit& fit,
            float step) {
  const Visit& where = visit_of(checkpoint, visit);
  const std::string name = linear_name(linear);
  if (!has_pair(checkpoint, visit, linear)) {
    Tensor& weight = checkpoint.tensors.at(layer_name(where.layer, name + ".weight"));
    Matrix changed = to_matrix(weight);
    add_scaled(fit.ridge.map, step, changed);
    replace(weight, changed);
    return;
  }
  Tensor& a = checkpoint.tensors.at(adapter_name(where.adapter, name + ".lora_A.weight"));
  Tensor& b = checkpoint.tensors.at(adapter_name(where.adapter, name + ".lora_B.weight"));
  Matrix wanted = multiply(to_matrix(b), to_matrix(a));
  add_scaled(fit.ridge.map, step, wanted);
  const LowRank pair = best_pair(wanted, fit.moments, a.rows());
  replace(a, pair.a);
  replace(b, pair.b);
}

}  // namespace

std::vector<RepairedVisit> visits_at_seams(std::int64_t original_depth,
                                           std::span<const std::int64_t> dropped) {
  std::vector<RepairedVisit> visits;
  std::int64_t visit = 0, behind = visits_behind + 1;
  for (std::int64_t depth = 0; depth < original_depth;) {
    if (std::ranges::find(dropped, depth) != dropped.end()) {  // before the first that is kept
      ++depth;
      continue;
    }
    const std::int64_t own = depth++;
    while (depth < original_depth && std::ranges::find(dropped, depth) != dropped.end()) ++depth;
    behind = depth > own + 1 ? 0 : behind + 1;
    if (behind <= visits_behind) visits.push_back({visit, depth});
    ++visit;
  }
  return visits;
}

std::vector<RepairedVisit> visits_with_adapters(const Checkpoint& changed) {
  std::vector<RepairedVisit> visits;
  for (std::int64_t visit = 0; visit < changed.plan.depth(); ++visit)
    if (has_pair(changed, visit, Linear::o) && has_pair(changed, visit, Linear::down))
      visits.push_back({visit, visit + 1});
  return visits;
}

std::string why_no_repair(const Checkpoint& changed, std::span<const RepairedVisit> visits) {
  if (changed.config.sandwich_norms)
    return fmt::format(
        "{} has a norm behind each branch, and nothing before that can be fitted in closed form",
        changed.source.string());
  for (const auto& [visit, depth] : visits) {
    const std::int64_t layer = visit_of(changed, visit).layer;
    const auto runs =
        std::ranges::count_if(changed.plan.visits, [&](const Visit& v) { return v.layer == layer; });
    if (runs > 1 && !(has_pair(changed, visit, Linear::o) && has_pair(changed, visit, Linear::down)))
      return fmt::format("layer {} runs {} times and has no adapters there: nothing is visit {}'s own", layer,
                         runs, visit);
  }
  return "";
}

Checkpoint repair(const Checkpoint& original, const Checkpoint& changed,
                  std::span<const RepairedVisit> visits, std::span<const Token> ids,
                  const RepairOptions& options) {
  if (const std::string reason = why_no_repair(changed, visits); !reason.empty()) fail("{}", reason);
  const auto text = ids.first(std::min(ids.size(), static_cast<std::size_t>(options.max_tokens)));
  Checkpoint result = changed;
  Json fits = Json::array();
  if (!visits.empty()) {
    const std::int64_t longest = original.config.max_positions - (options.bos >= 0 ? 1 : 0);
    const std::int64_t context = longest > 0 ? std::min(options.context, longest) : options.context;
    LayerwiseStates target(original, text, context, options.bos);
    LayerwiseStates own = target;  // up to the first visit that differs both are the same
    Progress progress("repairing", visits.back().depth, "layers");
    std::int64_t depth = 0, visit = 0;
    for (const RepairedVisit& next : visits) {
      while (depth < next.depth) {
        const bool same =
            visit == depth && visit < next.visit && same_visit(original, changed, visit) && fits.empty();
        target.go_through(original, depth++);
        if (same) {
          own = target;
          ++visit;
        }
        progress.advance(1);
      }
      for (; visit < next.visit; ++visit) own.go_through(result, visit);
      for (const Linear linear : {Linear::o, Linear::down}) {
        MissingBehind missing(linear, original.config, target.values());
        own.after(result, visit, &missing);
        const MissingBehind::Fit fit = missing.fit();
        change(result, visit, linear, fit, linear == Linear::o ? 0.5F : 1.0F);
        fits.push_back(Json{{"visit", visit},
                            {"map", linear_name(linear)},
                            {"ridge", fit.ridge.ridge},
                            {"unexplained", fit.ridge.unexplained}});
      }
      own.go_through(result, visit++);
    }
  }
  add_provenance(result, "repair", Json{{"tokens", text.size()}}, Json{{"fits", std::move(fits)}});
  validate(result);
  return result;
}

}  // namespace fathom
