#include "depth/profile.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numbers>
#include <optional>

#include "base/error.h"
#include "base/threads.h"
#include "measure/observed_windows.h"
#include "runtime/engine.h"
#include "runtime/model.h"

namespace fathom {
namespace {

double length(std::span<const float> x) {
  double squares = 0;
  for (const float value : x) squares += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(squares);
}

ResidualRatio quantiles(std::vector<float>& ratios) {
  const auto at = [&](double part) {
    const auto index =
        static_cast<std::ptrdiff_t>(std::llround(part * static_cast<double>(ratios.size() - 1)));
    std::nth_element(ratios.begin(), ratios.begin() + index, ratios.end());
    return static_cast<double>(ratios[static_cast<std::size_t>(index)]);
  };
  return {at(0.1), at(0.5), at(0.9)};
}

/// Keeps the depth + 1 residual states of the rows at hand and adds them up when the last visit is done: the
/// Gram matrix of a token's states, (depth + 1)² width operations, gives all its distances at once.
class DepthObserver : public Observer {
 public:
  DepthObserver(std::int64_t depth, std::int64_t width, const ProfileOptions& options)
      : depth_(depth),
        width_(width),
        last_token_only_(options.last_token_only),
        prefix_(options.bos >= 0 ? 1 : 0),
        window_(options.context + prefix_),
        states_(static_cast<std::size_t>(depth + 1)),
        distance_sums_(static_cast<std::size_t>((depth + 1) * (depth + 1))),
        cosine_sums_(static_cast<std::size_t>(depth)),
        attention_ratios_(static_cast<std::size_t>(depth)),
        ffn_ratios_(static_cast<std::size_t>(depth)) {}

  void observe(Tap tap, std::int64_t visit, std::int64_t rows, std::span<const float> values) override {
    const auto index = static_cast<std::size_t>(visit);
    switch (tap) {
      case Tap::visit_input:
        states_[index].assign(values.begin(), values.end());
        break;
      case Tap::attention_update:
        attention_.assign(values.begin(), values.end());
        break;
      case Tap::ffn_update:
        ffn_.assign(values.begin(), values.end());
        break;
      case Tap::visit_output:
        add_ratios(index, rows, values);
        if (visit + 1 == depth_) {
          states_[index + 1].assign(values.begin(), values.end());
          add_states(rows);
          position_ = (position_ + rows) % window_;
        }
        break;
      default:
        break;
    }
  }

  Profile result(const ProfileOptions& options);

 private:
  /// Rows that are no BOS.
  bool counts(std::int64_t row) const { return (position_ + row) % window_ >= prefix_; }
  bool is_last_of_window(std::int64_t row) const { return (position_ + row) % window_ == window_ - 1; }
  void add_ratios(std::size_t visit, std::int64_t rows, std::span<const float> output);
  void add_states(std::int64_t rows);

  std::int64_t depth_, width_;
  bool last_token_only_;
  std::int64_t prefix_, window_;
  std::int64_t position_ = 0;  ///< of the first row at hand, in its window
  std::vector<std::vector<float>> states_;
  std::vector<float> attention_, ffn_;
  std::vector<double> distance_sums_, cosine_sums_;
  std::int64_t distance_count_ = 0, cosine_count_ = 0;
  std::vector<std::vector<float>> attention_ratios_, ffn_ratios_;
};

void DepthObserver::add_ratios(std::size_t visit, std::int64_t rows, std::span<const float> output) {
  std::vector<float> sum(static_cast<std::size_t>(width_));
  const auto row_of = [&](std::span<const float> x, std::int64_t row) {
    return x.subspan(static_cast<std::size_t>(row * width_), static_cast<std::size_t>(width_));
  };
  const auto ratio = [](double part, double whole) {
    return static_cast<float>(whole > 0 ? part / whole : 0.0);
  };
  for (std::int64_t row = 0; row < rows; ++row) {
    if (!counts(row)) continue;
    const auto input = row_of(states_[visit], row), update = row_of(attention_, row);
    std::transform(input.begin(), input.end(), update.begin(), sum.begin(), std::plus<>());
    attention_ratios_[visit].push_back(ratio(length(update), length(sum)));
    ffn_ratios_[visit].push_back(ratio(length(row_of(ffn_, row)), length(row_of(output, row))));
  }
}

void DepthObserver::add_states(std::int64_t rows) {
  const std::int64_t states = depth_ + 1;
  std::vector<std::vector<double>> cosines(static_cast<std::size_t>(rows));
  parallel_for(rows, [&](std::int64_t row) {
    if (!counts(row)) return;
    std::vector<double> directions(static_cast<std::size_t>(states * width_));
    for (std::int64_t s = 0; s < states; ++s) {
      const auto state =
          std::span<const float>(states_[static_cast<std::size_t>(s)])
              .subspan(static_cast<std::size_t>(row * width_), static_cast<std::size_t>(width_));
      const double scale = 1 / std::max(length(state), 1e-30);
      std::transform(state.begin(), state.end(), directions.begin() + s * width_,
                     [scale](float value) { return scale * static_cast<double>(value); });
    }
    auto& gram = cosines[static_cast<std::size_t>(row)];
    gram.resize(static_cast<std::size_t>(states * states));
    cblas_dsyrk(CblasRowMajor, CblasUpper, CblasNoTrans, static_cast<int>(states), static_cast<int>(width_),
                1.0, directions.data(), static_cast<int>(width_), 0.0, gram.data(), static_cast<int>(states));
  });
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto& gram = cosines[static_cast<std::size_t>(row)];
    if (gram.empty()) continue;
    ++cosine_count_;
    for (std::int64_t l = 0; l < depth_; ++l) {
      cosine_sums_[static_cast<std::size_t>(l)] += gram[static_cast<std::size_t>(l * states + l + 1)];
    }
    if (last_token_only_ && !is_last_of_window(row)) continue;
    ++distance_count_;
    for (std::int64_t l = 0; l < depth_; ++l) {
      for (std::int64_t m = l + 1; m <= depth_; ++m) {
        const auto cell = static_cast<std::size_t>(l * states + m);
        distance_sums_[cell] += angular_distance(gram[cell]);
      }
    }
  }
}

Profile DepthObserver::result(const ProfileOptions& options) {
  Profile profile;
  profile.depth = depth_;
  profile.tokens = cosine_count_;
  profile.context = options.context;
  for (std::int64_t n = 1; n <= depth_; ++n) {
    auto& row = profile.angular.emplace_back();
    for (std::int64_t l = 0; l + n <= depth_; ++l) {
      row.push_back(distance_sums_[static_cast<std::size_t>(l * (depth_ + 1) + l + n)] /
                    static_cast<double>(distance_count_));
      if (!std::isfinite(row.back()))
        fail("the model's hidden states of visit {} are not finite: a weight is damaged or out of range", l);
    }
  }
  for (std::size_t l = 0; l < cosine_sums_.size(); ++l) {
    profile.block_influence.push_back(1 - cosine_sums_[l] / static_cast<double>(cosine_count_));
    profile.attention.push_back(quantiles(attention_ratios_[l]));
    profile.ffn.push_back(quantiles(ffn_ratios_[l]));
  }
  return profile;
}

/// Two that look at the same pass.
class Both : public Observer {
 public:
  Both(Observer& first, Observer& second) : first_(first), second_(second) {}
  void observe(Tap tap, std::int64_t visit, std::int64_t rows, std::span<const float> values) override {
    first_.observe(tap, visit, rows, values);
    second_.observe(tap, visit, rows, values);
  }

 private:
  Observer &first_, &second_;
};

Json ratios_json(const std::vector<ResidualRatio>& ratios) {
  Json json = Json::array();
  for (const ResidualRatio& r : ratios)
    json.push_back({{"p10", r.p10}, {"median", r.median}, {"p90", r.p90}});
  return json;
}

}  // namespace

double angular_distance(double cosine) { return std::acos(std::clamp(cosine, -1.0, 1.0)) / std::numbers::pi; }

Profile profile_depth(const Checkpoint& checkpoint, std::span<const Token> ids,
                      const ProfileOptions& options) {
  Engine engine(checkpoint, {.compute = float_compute(checkpoint), .max_context = 0});
  return profile_depth(engine, ids, options);
}

Profile profile_depth(Engine& engine, std::span<const Token> ids, const ProfileOptions& options,
                      Observer* beside) {
  ProfileOptions used = options;
  used.context = std::min(options.context, engine.max_context() - (options.bos >= 0 ? 1 : 0));
  DepthObserver observer(engine.plan().depth(), engine.config().hidden_size, used);
  std::optional<Both> both;
  if (beside != nullptr) both.emplace(observer, *beside);
  const auto most = static_cast<std::size_t>(std::max(used.max_tokens, used.context));
  run_windows(engine, ids.first(std::min(ids.size(), most)), used.context, used.bos,
              beside != nullptr ? "profiling, calibrating" : "profiling",
              both ? static_cast<Observer&>(*both) : observer);
  return observer.result(used);
}

std::int64_t most_similar_block(const Profile& profile, std::int64_t count) {
  if (count < 1 || count > profile.depth) {
    fail_usage("a block of {} layers does not fit into {}", count, profile.depth);
  }
  const auto& distances = profile.angular[static_cast<std::size_t>(count - 1)];
  return std::min_element(distances.begin(), distances.end()) - distances.begin();
}

Json to_json(const Profile& profile) {
  return Json{{"depth", profile.depth},
              {"tokens", profile.tokens},
              {"context", profile.context},
              {"angular_distance", profile.angular},
              {"block_influence", profile.block_influence},
              {"attention_ratio", ratios_json(profile.attention)},
              {"ffn_ratio", ratios_json(profile.ffn)}};
}

}  // namespace fathom
