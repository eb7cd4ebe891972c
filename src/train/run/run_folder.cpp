#include "train/run/run_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "base/fingerprint.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t most_steps = std::int64_t{1} << 50;

Json to_json(const TrainStep& step) {
  Json json = {{"step", step.step},
               {"tokens", step.tokens},
               {"loss", step.loss},
               {"ce", step.ce},
               {"kl", step.kl},
               {"learning_rate", step.learning_rate},
               {"gradient_norm", step.gradient_norm},
               {"seconds", step.seconds}};
  if (step.hidden != 0) json["hidden"] = step.hidden;
  for (const ExitLoss& exit : step.exits) {
    json["exits"].push_back(
        {{"visit", exit.visit}, {"weight", exit.weight}, {"ce", exit.ce}, {"kl", exit.kl}});
  }
  if (step.skipped) json["skipped"] = true;
  // A number that is none is null in JSON, and null a number that is none when it is read.
  return json;
}

double number_or_nan(const JsonObject& json, const std::string& key) {
  return json.number_or(key, std::numeric_limits<double>::quiet_NaN());
}

std::vector<ExitLoss> exits_from_json(const JsonObject& json) {
  std::vector<ExitLoss> exits;
  if (!json.has("exits")) return exits;
  for (const JsonObject& exit : json.objects("exits")) {
    exits.push_back({.visit = exit.integer("visit", 0, 4095),
                     .weight = exit.number("weight"),
                     .ce = number_or_nan(exit, "ce"),
                     .kl = number_or_nan(exit, "kl")});
  }
  return exits;
}

TrainStep step_from_json(const JsonObject& json) {
  return {.step = json.integer("step", 1, most_steps),
          .tokens = json.integer("tokens", 0, most_steps),
          .loss = number_or_nan(json, "loss"),
          .ce = number_or_nan(json, "ce"),
          .kl = number_or_nan(json, "kl"),
          .learning_rate = json.number("learning_rate"),
          .gradient_norm = number_or_nan(json, "gradient_norm"),
          .seconds = json.number("seconds"),
          .hidden = json.raw().contains("hidden") ? number_or_nan(json, "hidden") : 0,
          .exits = exits_from_json(json),
          .skipped = json.boolean_or("skipped", false)};
}

std::map<std::string, double> scalars(const TrainStep& step) {
  std::map<std::string, double> result = {{"train/loss", step.loss},
                                          {"train/cross_entropy", step.ce},
                                          {"train/divergence", step.kl},
                                          {"train/learning_rate", step.learning_rate},
                                          {"train/gradient_norm", step.gradient_norm}};
  if (step.hidden != 0) result["train/hidden"] = step.hidden;
  for (const ExitLoss& exit : step.exits) {
    result[fmt::format("exits/cross_entropy_{}", exit.visit)] = exit.ce;
    result[fmt::format("exits/divergence_{}", exit.visit)] = exit.kl;
  }
  return result;
}

std::map<std::string, double> scalars(const JsonObject& evaluation) {
  return {{"held_out/loss", evaluation.number("loss")},
          {"held_out/perplexity", evaluation.number("perplexity")}};
}

std::string digest(const std::vector<std::pair<std::string, Tensor>>& tensors) {
  Fingerprint result;
  for (const auto& [name, tensor] : tensors) {
    result.add(name);
    result.add(tensor.data);
  }
  return result.hex();
}

/// Of a checkpoint's state but for "self", which is this: a digit that has changed is a number all the same.
std::string digest_of_rest(Json state) {
  state.erase("self");
  Fingerprint result;
  result.add(state.dump());
  return result.hex();
}

class RemovedUnlessRenamed {
 public:
  explicit RemovedUnlessRenamed(fs::path path) : path_(std::move(path)) {}
  ~RemovedUnlessRenamed() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  RemovedUnlessRenamed(const RemovedUnlessRenamed&) = delete;
  RemovedUnlessRenamed& operator=(const RemovedUnlessRenamed&) = delete;

 private:
  fs::path path_;
};

}  // namespace

fs::path beside(const fs::path& directory, const std::string& ending) {
  const fs::path plain = fs::absolute(directory).lexically_normal();
  return (plain.has_filename() ? plain : plain.parent_path()).string() + ending;
}

RunFolder::RunFolder(fs::path folder, Json identity)
    : folder_(std::move(folder)), identity_(std::move(identity)) {
  std::error_code error;
  fs::create_directories(folder_ / "checkpoints", error);
  if (error) fail("{}: cannot create the run's folder: {}", folder_.string(), error.message());
}

void RunFolder::clear() {
  for (const fs::path& checkpoint : checkpoints()) fs::remove_all(checkpoint);
  fs::remove(folder_ / "metrics.jsonl");
  fs::remove(folder_ / "evaluations.jsonl");
  fs::remove_all(best());
  cut_back(0);
}

void RunFolder::finish(const fs::path& folder) {
  const fs::path ended = folder / "checkpoints.ended";
  fs::remove_all(ended);
  fs::rename(folder / "checkpoints", ended);  // at once, so that a run killed now has ended too
  fs::remove_all(ended);
  fs::remove_all(folder / "tokens");
}

std::vector<fs::path> RunFolder::checkpoints() const {
  std::vector<fs::path> result;
  for (const auto& entry : fs::directory_iterator(folder_ / "checkpoints")) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && !name.ends_with(".part")) result.push_back(entry.path());
  }
  std::ranges::sort(result);  // the step is zero-padded
  return result;
}

bool RunFolder::resume(
    RunState& state,
    const std::function<void(const TensorMap&, const RunState&, const std::string&)>& restore) {
  std::vector<fs::path> candidates = checkpoints();
  for (auto path = candidates.rbegin(); path != candidates.rend(); ++path) {
    const fs::path state_file = *path / "state.json", tensor_file = *path / "state.safetensors";
    std::string other_run;
    try {
      const Json json = read_json(state_file);
      const JsonObject object(json, state_file.string());
      if (digest_of_rest(json) != object.string("self"))
        fail("{}: its content is not what was written", state_file.string());
      const RunState found{.step = object.integer("step", 0, most_steps),
                           .updates = object.integer("updates", 0, most_steps),
                           .total_steps = object.integer("total_steps", 0, most_steps),
                           .seconds = object.number("seconds"),
                           .best_loss = object.number("best_loss"),
                           .best_step = object.integer("best_step", 0, most_steps),
                           .history = history_from_json(object.object("history"))};
      other_run = differences(object.at("identity"), identity_);
      if (other_run.empty()) {
        const TensorMap tensors = read_safetensors(tensor_file);
        if (digest({tensors.begin(), tensors.end()}) != object.string("digest")) {
          fail("{}: the tensors are not those that were written", tensor_file.string());
        }
        restore(tensors, found, tensor_file.string());
        state = found;
        return true;
      }
    } catch (const Error& error) {
      fmt::print(stderr, "fathom: passing over a damaged checkpoint: {}\n", error.what());
      continue;
    }
    fail(
        "{}: a checkpoint of another run: different {}. Give what the run was started with, or start anew "
        "without resuming, or choose another folder",
        path->string(), other_run);
  }
  return false;
}

std::string RunFolder::kept_lines(const std::string& name, std::int64_t last_step,
                                  const std::function<void(const JsonObject&)>& take) const {
  const fs::path file = folder_ / name;
  std::istringstream lines(fs::exists(file) ? read_file(file) : "");
  std::string kept, line;
  while (std::getline(lines, line)) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) break;  // a line cut short by a crash: of a step after the checkpoint
    const JsonObject object(json, file.string());
    if (object.integer("step", 1, most_steps) > last_step) break;
    take(object);
    kept += line + "\n";
  }
  return kept;
}

void RunFolder::cut_back(std::int64_t last_step) {
  steps_.clear();
  std::vector<std::pair<std::int64_t, std::map<std::string, double>>> evaluations;
  const std::string metrics = kept_lines(
      "metrics.jsonl", last_step, [&](const JsonObject& line) { steps_.push_back(step_from_json(line)); });
  const std::string evaluated = kept_lines("evaluations.jsonl", last_step, [&](const JsonObject& line) {
    evaluations.emplace_back(line.integer("step", 1, most_steps), scalars(line));
  });
  if (!metrics.empty()) write_file(folder_ / "metrics.jsonl", metrics);
  if (!evaluated.empty()) write_file(folder_ / "evaluations.jsonl", evaluated);
  events_.reset();
  for (const auto& entry : fs::directory_iterator(folder_)) {
    const std::string name = entry.path().filename().string();
    const bool half_written = name.starts_with(".best.part-");  // by a process that was killed
    if (half_written || name.starts_with("events.out.tfevents.")) fs::remove_all(entry.path());
  }
  events_.emplace(folder_);
  for (const TrainStep& step : steps_) events_->append(step.step, scalars(step));
  for (const auto& [step, values] : evaluations) events_->append(step, values);
}

void RunFolder::save(const RunState& state, const std::vector<std::pair<std::string, Tensor>>& tensors) {
  const fs::path target = folder_ / "checkpoints" / fmt::format("step-{:08}", state.step);
  const fs::path part = target.string() + ".part";
  fs::remove_all(part);
  const RemovedUnlessRenamed remover(part);  // what a full disk does not hold makes room again
  fs::create_directory(part);
  // In the order of the names, as they are found again in the map that is read.
  std::vector<std::pair<std::string, Tensor>> sorted = tensors;
  std::ranges::sort(sorted, {}, [](const auto& entry) { return entry.first; });
  write_safetensors(part / "state.safetensors", sorted);
  Json json = {{"step", state.step},
               {"total_steps", state.total_steps},
               {"updates", state.updates},
               {"seconds", state.seconds},
               {"best_loss", state.best_loss},
               {"best_step", state.best_step},
               {"history", to_json(state.history)},
               {"digest", digest(sorted)},
               {"identity", identity_}};
  json["self"] = digest_of_rest(json);
  write_file(part / "state.json", json.dump(2) + "\n");
  fs::remove_all(target);
  fs::rename(part, target);
  const std::vector<fs::path> all = checkpoints();
  for (std::size_t i = 0; i + 2 < all.size(); ++i) fs::remove_all(all[i]);
}

void RunFolder::append_line(const std::string& name, const Json& line) const {
  const fs::path file = folder_ / name;
  std::ofstream out(file, std::ios::app);
  out << line.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
  out.flush();
  if (!out) fail("{}: cannot write: {}", file.string(), std::strerror(errno));
}

void RunFolder::append(const TrainStep& step) {
  append_line("metrics.jsonl", to_json(step));
  events_->append(step.step, scalars(step));
  steps_.push_back(step);
}

void RunFolder::append_evaluation(const Json& evaluation) {
  append_line("evaluations.jsonl", evaluation);
  events_->append(evaluation["step"], scalars(JsonObject(evaluation, "evaluation")));
}

}  // namespace fathom
