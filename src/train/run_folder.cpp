#include "train/run_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "base/file.h"
#include "train/fingerprint.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t most_steps = std::int64_t{1} << 50;

Json to_json(const TrainStep& step) {
  return {{"step", step.step},
          {"tokens", step.tokens},
          {"loss", step.loss},
          {"ce", step.ce},
          {"kl", step.kl},
          {"learning_rate", step.learning_rate},
          {"gradient_norm", step.gradient_norm},
          {"seconds", step.seconds}};
}

TrainStep step_from_json(const JsonObject& json) {
  return {.step = json.integer("step", 1, most_steps),
          .tokens = json.integer("tokens", 0, most_steps),
          .loss = json.number("loss"),
          .ce = json.number("ce"),
          .kl = json.number("kl"),
          .learning_rate = json.number("learning_rate"),
          .gradient_norm = json.number("gradient_norm"),
          .seconds = json.number("seconds")};
}

std::string digest(const std::vector<std::pair<std::string, Tensor>>& tensors) {
  Fingerprint result;
  for (const auto& [name, tensor] : tensors) {
    result.add(name);
    result.add(tensor.data);
  }
  return result.hex();
}

/// Names of what differs, for the message.
std::string differences(const Json& found, const Json& expected, const std::string& prefix = "") {
  std::string result;
  for (const auto& [key, value] : expected.items()) {
    const Json other = found.is_object() && found.contains(key) ? found[key] : Json();
    if (other == value) continue;
    if (value.is_object()) {
      result += differences(other, value, prefix + key + ".");
    } else {
      result += fmt::format("{}{}{} (was {}, is {})", result.empty() ? "" : ", ", prefix, key, other.dump(),
                            value.dump());
    }
  }
  return result;
}

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
  steps_.clear();
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
      const RunState found{.step = object.integer("step", 0, most_steps),
                           .total_steps = object.integer("total_steps", 0, most_steps),
                           .seconds = object.number("seconds")};
      other_run = differences(object.at("identity"), identity_);
      if (other_run.empty()) {
        const TensorMap tensors = read_safetensors(tensor_file);
        if (digest({tensors.begin(), tensors.end()}) != object.string("digest")) {
          fail("{}: the tensors are not those that were written", tensor_file.string());
        }
        restore(tensors, found, tensor_file.string());
        state = found;
        read_metrics(found.step);
        return true;
      }
    } catch (const Error& error) {
      fmt::print(stderr, "fathom: passing over a damaged checkpoint: {}\n", error.what());
      continue;
    }
    fail(
        "{}: a checkpoint of another run: different {}. Give what the run was started with, or start anew "
        "without "
        "resuming, or choose another folder",
        path->string(), other_run);
  }
  return false;
}

void RunFolder::read_metrics(std::int64_t last_step) {
  const fs::path file = folder_ / "metrics.jsonl";
  std::istringstream lines(fs::exists(file) ? read_file(file) : "");
  std::string kept, line;
  steps_.clear();
  while (std::getline(lines, line)) {
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded()) break;  // a line cut short by a crash: of a step after the checkpoint
    const TrainStep step = step_from_json(JsonObject(json, file.string()));
    if (step.step > last_step) break;
    steps_.push_back(step);
    kept += line + "\n";
  }
  write_file(file, kept);
}

void RunFolder::save(const RunState& state, const std::vector<std::pair<std::string, Tensor>>& tensors) {
  const fs::path target = folder_ / "checkpoints" / fmt::format("step-{:08}", state.step);
  const fs::path part = target.string() + ".part";
  fs::remove_all(part);
  fs::create_directory(part);
  // In the order of the names, as they are found again in the map that is read.
  std::vector<std::pair<std::string, Tensor>> sorted = tensors;
  std::ranges::sort(sorted, {}, [](const auto& entry) { return entry.first; });
  write_safetensors(part / "state.safetensors", sorted);
  const Json json = {{"step", state.step},
                     {"total_steps", state.total_steps},
                     {"seconds", state.seconds},
                     {"digest", digest(sorted)},
                     {"identity", identity_}};
  write_file(part / "state.json", json.dump(2) + "\n");
  fs::remove_all(target);
  fs::rename(part, target);
  const std::vector<fs::path> all = checkpoints();
  for (std::size_t i = 0; i + 2 < all.size(); ++i) fs::remove_all(all[i]);
}

void RunFolder::append(const TrainStep& step) {
  const fs::path file = folder_ / "metrics.jsonl";
  std::ofstream out(file, std::ios::app);
  out << to_json(step).dump() << '\n';
  out.flush();
  if (!out) fail("{}: cannot write", file.string());
  steps_.push_back(step);
}

}  // namespace fathom
