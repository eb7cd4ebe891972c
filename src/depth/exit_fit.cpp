#include "depth/exit_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "depth/linear_algebra.h"
#include "depth/logistic_regression.h"
#include "depth/provenance.h"
#include "depth/regression.h"
#include "measure/observed_windows.h"
#include "runtime/engine.h"
#include "runtime/lm_head.h"
#include "runtime/model.h"

namespace fathom {
namespace {

/// Of so many windows one is held out.
constexpr std::int64_t held_every = 8;

std::vector<float> over_rms(std::int64_t rows, std::span<const float> states, double eps) {
  std::vector<float> normed(states.begin(), states.end());
  const std::size_t width = states.size() / static_cast<std::size_t>(rows);
  for (auto row = normed.begin(); row != normed.end(); row += static_cast<std::ptrdiff_t>(width)) {
    double squares = 0;
    for (std::size_t i = 0; i < width; ++i) squares += double{row[i]} * row[i];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (std::size_t i = 0; i < width; ++i) row[i] = static_cast<float>(row[i] * scale);
  }
  return normed;
}

/// The text's windows in two: one of eight is held out, of a few the last.
struct Split {
  std::vector<Token> fitted, held;

  Split(std::span<const Token> ids, std::int64_t context) {
    const std::int64_t windows = std::ssize(ids) / std::max<std::int64_t>(1, context);
    if (windows < 2)
      fail("the text has {} tokens, fewer than two windows of {}: give a longer one or a smaller --context",
           ids.size(), context);
    for (std::int64_t w = 0; w < windows; ++w) {
      auto& part =
          w % held_every == held_every / 2 || (windows <= held_every / 2 && w == windows - 1) ? held : fitted;
      const auto window =
          ids.subspan(static_cast<std::size_t>(w * context), static_cast<std::size_t>(context));
      part.insert(part.end(), window.begin(), window.end());
    }
  }
};

/// Shows the states at exits, and after the last visit, of one window after another: divided by their root
/// mean square, without those of the first token.
class StatesOfWindows : public Observer {
 public:
  /// [rows, hidden] of each exit, and of the last visit.
  using States = std::vector<std::vector<float>>;

  StatesOfWindows(const Engine& engine, std::span<const std::int64_t> depths)
      : depths_(depths.begin(), depths.end()), eps_(engine.config().norm_eps), states_(depths.size() + 1) {
    depths_.push_back(engine.plan().depth());
  }

  virtual void see(std::int64_t rows, const States& states) = 0;

  void observe(Tap tap, std::int64_t visit, std::int64_t rows, std::span<const float> values) final {
    const auto found = std::ranges::find(depths_, visit + 1);
    if (tap != Tap::visit_output || found == depths_.end() || rows < 2) return;
    const std::size_t width = values.size() / static_cast<std::size_t>(rows);
    states_[static_cast<std::size_t>(found - depths_.begin())] =
        over_rms(rows - 1, values.subspan(width), eps_);
    if (found + 1 == depths_.end()) see(rows - 1, states_);
  }

 private:
  std::vector<std::int64_t> depths_;
  double eps_;
  States states_;
};

/// Adds rows of the regression of an exit: of what is missing to the last state, on the state and a constant.
void add_states(const std::vector<float>& normed, const std::vector<float>& last, std::int64_t rows,
                RegressionSums& sums) {
  const std::int64_t width = std::ssize(normed) / rows;
  Matrix x(rows, width + 1);
  std::vector<float> missing(normed.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    std::copy_n(normed.data() + r * width, width, x.row(r));
    x.row(r)[width] = 1;
  }
  std::transform(last.begin(), last.end(), normed.begin(), missing.begin(), std::minus());
  sums.add(x.values, missing, std::vector<float>(static_cast<std::size_t>(rows), 1.0F));
}

class SumsOfText : public StatesOfWindows {
 public:
  SumsOfText(const Engine& engine, std::span<const std::int64_t> depths)
      : StatesOfWindows(engine, depths),
        sums(depths.size(), RegressionSums(engine.config().hidden_size + 1, engine.config().hidden_size)) {}
  void see(std::int64_t rows, const States& states) override {
    for (std::size_t e = 0; e < sums.size(); ++e) add_states(states[e], states.back(), rows, sums[e]);
  }
  std::vector<RegressionSums> sums;  // by exit
};

/// The best pair of that rank for the text's inputs (reduced-rank regression): what the map makes of them,
/// projected onto its principal directions.
LowRank reduced(const Matrix& weight, const Matrix& xx, std::int64_t rank) {
  Matrix inputs(weight.cols, weight.cols);  // without the constant
  for (std::int64_t i = 0; i < inputs.rows; ++i) std::copy_n(xx.row(i), inputs.cols, inputs.row(i));
  std::vector<float> values;
  const Matrix outputs = multiply(multiply(weight, inputs), Transpose::no, weight, Transpose::yes);
  const Matrix directions = eigenvectors(outputs, values);
  LowRank pair{Matrix(weight.rows, rank), Matrix(rank, weight.cols)};
  for (std::int64_t i = 0; i < weight.rows; ++i) std::copy_n(directions.row(i), rank, pair.b.row(i));
  pair.a = multiply(pair.b, Transpose::yes, weight, Transpose::no);
  return pair;
}

void set_translator(Checkpoint& checkpoint, std::int64_t visit, const Matrix& map, const RegressionSums& sums,
                    std::int64_t rank) {
  const std::int64_t width = map.rows;
  Matrix weight(width, width);
  std::vector<float> bias;
  for (std::int64_t i = 0; i < width; ++i) {
    std::copy_n(map.row(i), width, weight.row(i));
    bias.push_back(map.row(i)[width]);
  }
  const auto set = [&](const char* name, Tensor tensor) {
    checkpoint.exits[exit_name(visit, name)] = std::move(tensor);
  };
  set("translator.bias", make_tensor(DType::f32, {width}, bias));
  if (rank == 0 || rank >= width) return set("translator.weight", to_tensor(DType::f32, weight));
  const LowRank pair = reduced(weight, sums.moments(), rank);
  set("translator.lora_A.weight", to_tensor(DType::f32, pair.a));
  set("translator.lora_B.weight", to_tensor(DType::f32, pair.b));
}

/// What exits, and full depth, say of windows.
class Reading : public StatesOfWindows {
 public:
  /// As given to run_windows. Keeps states if asked: they take 4 bytes a value.
  Reading(Engine& engine, std::span<const std::int64_t> depths, std::span<const Token> ids,
          const ExitFitOptions& options, bool keeps_states)
      : StatesOfWindows(engine, depths),
        exits(depths.size()),
        engine_(engine),
        depths_(depths),
        rest_(ids),
        options_(options),
        keeps_states_(keeps_states) {}

  struct Exit {
    std::vector<double> losses;  ///< of windows
    std::vector<bool> agrees;    ///< of tokens
    std::int64_t shortly = 0;    ///< tokens of which the shortlist's best agrees
    std::vector<float> states;   ///< divided by their root mean square, where they are kept
    ExitWorth worth() const {
      const double agreed = static_cast<double>(std::ranges::count(agrees, true));
      return {perplexity_of(losses, std::ssize(agrees) / std::ssize(losses)),
              agreed / static_cast<double>(agrees.size())};
    }
  };
  std::vector<Exit> exits;
  std::vector<double> losses;            ///< of full depth
  std::map<Token, std::int64_t> chosen;  ///< by full depth, how often
  std::int64_t tokens = 0;

  void see(std::int64_t rows, const States& states) override {
    // The state of the last token has nothing to predict, that of the first is not shown.
    const std::int64_t count = rows - 1;
    const std::size_t values = static_cast<std::size_t>(count * engine_.config().hidden_size);
    const auto window = rest_.first(static_cast<std::size_t>(options_.context));
    rest_ = rest_.subspan(window.size());
    const auto targets = window.last(static_cast<std::size_t>(count));
    const auto ask = [&](std::span<const float> hidden, std::vector<double>& means) {
      std::vector<Pick> picks;
      for (std::int64_t r = 0; r < count; ++r) picks.push_back({r, targets[static_cast<std::size_t>(r)]});
      std::vector<float> logits;
      const auto heads = engine_.head().summarise(count, hidden.data(), picks, logits);
      double loss = 0;
      for (std::size_t r = 0; r < heads.size(); ++r) loss += heads[r].log_sum_exp - double{logits[r]};
      means.push_back(loss / static_cast<double>(count));
      return heads;
    };
    const auto full = ask(std::span(states.back()).first(values), losses);
    for (const RowSummary& head : full) ++chosen[static_cast<Token>(head.best)];
    tokens += count;
    for (std::size_t e = 0; e < exits.size(); ++e) {
      Exit& exit = exits[e];
      std::vector<float> hidden(states[e].begin(), states[e].begin() + static_cast<std::ptrdiff_t>(values));
      if (keeps_states_) exit.states.insert(exit.states.end(), hidden.begin(), hidden.end());
      engine_.head().translate(depths_[e] - 1, count, hidden.data());
      const auto heads = ask(hidden, exit.losses);
      for (std::size_t r = 0; r < heads.size(); ++r) exit.agrees.push_back(heads[r].best == full[r].best);
      if (engine_.head().shortlist() == 0) continue;
      const auto short_heads = engine_.head().summarise_shortlist(count, hidden.data());
      for (std::size_t r = 0; r < full.size(); ++r)
        exit.shortly += short_heads[r].best == full[r].best ? 1 : 0;
    }
  }

 private:
  Engine& engine_;
  std::span<const std::int64_t> depths_;
  std::span<const Token> rest_;
  const ExitFitOptions& options_;
  bool keeps_states_;
};

Reading read(Engine& engine, std::span<const Token> ids, const ExitFitOptions& options, const char* title,
             bool keeps_states) {
  Reading reading(engine, options.depths, ids, options, keeps_states);
  run_windows(engine, ids, options.context, options.bos, title, reading);
  return reading;
}

/// The most frequent choices of full depth, then the most frequent tokens of the text, then the first ones
/// there are (in vocabularies of merges the most frequent): so many, ascending.
Tensor shortlist_of(const std::map<Token, std::int64_t>& chosen, std::span<const Token> ids,
                    std::int64_t count, std::int64_t vocab) {
  std::vector<std::array<std::int64_t, 3>> order(static_cast<std::size_t>(vocab));
  for (std::int64_t token = 0; token < vocab; ++token) order[static_cast<std::size_t>(token)][2] = token;
  for (const auto& [token, times] : chosen) order[static_cast<std::size_t>(token)][0] = -times;
  for (const Token token : ids) --order[static_cast<std::size_t>(token)][1];
  std::ranges::sort(order);
  std::vector<float> tokens;
  for (const auto& [times, in_text, token] : std::span(order).first(static_cast<std::size_t>(count)))
    tokens.push_back(static_cast<float>(token));
  std::ranges::sort(tokens);
  return make_tensor(DType::f32, {count}, tokens);
}

Matrix states_of(const Reading::Exit& exit, std::int64_t width) {
  Matrix states;
  states.rows = std::ssize(exit.states) / width;
  states.cols = width;
  states.values = exit.states;
  return states;
}

/// Returns the area under the curve of the held-out tokens.
double set_gate(Checkpoint& checkpoint, std::int64_t visit, const Reading::Exit& fitted,
                const Reading::Exit& held) {
  const std::int64_t width = checkpoint.config.hidden_size;
  const Matrix states = states_of(fitted, width), others = states_of(held, width);
  LinearClassifier gate, best;
  double least = 0;
  for (const double ridge : {1.0, 0.1, 0.01, 1e-3}) {
    gate = logistic_regression(states, fitted.agrees, ridge, std::move(gate));
    const double loss = gate.loss(others, held.agrees);
    if (!best.weight.empty() && !(loss < least)) continue;
    best = gate;
    least = loss;
  }
  checkpoint.exits[exit_name(visit, "gate.weight")] = make_tensor(DType::f32, {1, width}, best.weight);
  checkpoint.exits[exit_name(visit, "gate.bias")] = make_tensor(DType::f32, {1}, {&best.bias, 1});
  std::vector<double> probabilities;
  for (std::int64_t r = 0; r < others.rows; ++r)
    probabilities.push_back(best.probability({others.row(r), static_cast<std::size_t>(width)}));
  return area_under_curve(probabilities, held.agrees);
}

}  // namespace

void check_exit_fit(const Checkpoint& checkpoint, const ExitFitOptions& options) {
  const std::int64_t depth = checkpoint.plan.depth(), vocab = checkpoint.config.vocab_size;
  std::int64_t before = 0;
  for (const std::int64_t visits : options.depths) {
    if (visits <= before || visits >= depth)
      fail_usage("an exit after {} visits was asked for, expected ascending numbers from 1 to {}", visits,
                 depth - 1);
    before = visits;
  }
  if (options.depths.empty()) fail_usage("no exit was asked for");
  if (options.shortlist < 0 || options.shortlist >= vocab)
    fail_usage("a shortlist of {} tokens was asked for, expected fewer than the vocabulary's {}",
               options.shortlist, vocab);
  if (options.context < 3) fail_usage("--context is {}, expected 3 or more", options.context);
}

Checkpoint fit_exits(const Checkpoint& checkpoint, std::span<const Token> ids, const ExitFitOptions& options,
                     ExitFitReport& report) {
  check_exit_fit(checkpoint, options);
  const Split split(ids, options.context);
  Checkpoint result = checkpoint;
  result.exits.clear();
  for (std::int64_t visit = 0; visit < result.plan.depth(); ++visit)
    result.plan.visits[static_cast<std::size_t>(visit)].exit =
        std::ranges::find(options.depths, visit + 1) != options.depths.end();

  const EngineOptions measuring = {.compute = float_compute(checkpoint), .max_context = 0};
  report = {};
  report.tokens = std::ssize(split.fitted);
  report.held_out = std::ssize(split.held);
  // Gates and shortlist ask the head, and keep states.
  constexpr std::int64_t most_read = 16'384;
  const std::int64_t windows = std::max<std::int64_t>(1, most_read / options.context);
  const auto some =
      std::span(split.fitted)
          .first(static_cast<std::size_t>(std::min(std::ssize(split.fitted), windows * options.context)));
  {
    Engine engine(result, measuring);
    SumsOfText fitted(engine, options.depths), held(engine, options.depths);
    run_windows(engine, split.fitted, options.context, options.bos, "states at exits", fitted);
    run_windows(engine, split.held, options.context, options.bos, "held out", held);
    const Reading before = read(engine, split.held, options, "exits before", false);
    report.full = perplexity_of(before.losses, before.tokens / std::ssize(before.losses));
    for (std::size_t e = 0; e < options.depths.size(); ++e) {
      constexpr double ridges[] = {1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1};
      const RidgeFit fit = fit_ridge(fitted.sums[e], held.sums[e], ridges, own_penalty_but_last);
      set_translator(result, options.depths[e] - 1, fit.map, fitted.sums[e], options.rank);
      report.exits.push_back(
          {.depth = options.depths[e], .ridge = fit.ridge, .before = before.exits[e].worth(), .after = {}});
    }
    if (options.shortlist > 0) {
      ExitFitOptions full_depth = options;
      full_depth.depths.clear();
      const Reading reading = read(engine, some, full_depth, "shortlist", false);
      result.exits[std::string(shortlist_name)] =
          shortlist_of(reading.chosen, split.fitted, options.shortlist, checkpoint.config.vocab_size);
    }
  }
  Engine engine(result, measuring);
  const Reading after = read(engine, split.held, options, "exits after", options.gate);
  for (std::size_t e = 0; e < options.depths.size(); ++e) {
    ExitFit& fit = report.exits[e];
    fit.after = after.exits[e].worth();
    if (options.shortlist > 0)
      fit.shortlist = static_cast<double>(after.exits[e].shortly) / static_cast<double>(after.tokens);
  }
  if (options.gate) {
    const Reading learned = read(engine, some, options, "gates", true);
    for (std::size_t e = 0; e < options.depths.size(); ++e)
      report.exits[e].gate = set_gate(result, options.depths[e] - 1, learned.exits[e], after.exits[e]);
  }
  add_provenance(result, "exits",
                 Json{{"at", options.depths},
                      {"rank", options.rank},
                      {"shortlist", options.shortlist},
                      {"gate", options.gate},
                      {"tokens", report.tokens}},
                 to_json(report));
  validate(result);
  return result;
}

Json to_json(const ExitFitReport& report) {
  const auto worth = [](const ExitWorth& exit) {
    return Json{{"perplexity", exit.perplexity.perplexity()}, {"agreement", exit.agreement}};
  };
  Json exits = Json::array();
  for (const ExitFit& fit : report.exits) {
    exits.push_back({{"depth", fit.depth},
                     {"ridge", fit.ridge},
                     {"before", worth(fit.before)},
                     {"after", worth(fit.after)}});
    if (fit.shortlist > 0) exits.back()["shortlist_agreement"] = fit.shortlist;
    if (fit.gate > 0) exits.back()["gate_auc"] = fit.gate;
  }
  return {{"perplexity", report.full.perplexity()},
          {"tokens", report.tokens},
          {"held_out", report.held_out},
          {"exits", std::move(exits)}};
}

}  // namespace fathom
