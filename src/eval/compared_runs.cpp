#include "eval/compared_runs.h"

#include <algorithm>
#include <limits>
#include <set>
#include <string_view>

#include "base/error.h"
#include "base/file.h"

namespace fathom {
namespace {

constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();

double positive(double rate, const JsonObject& row, const std::string& key) {
  if (rate <= 0) fail("{} is {}, expected tokens a second, more than 0", row.field(key), rate);
  return rate;
}

double rate_of(const JsonObject& row, const std::string& key) { return positive(row.number(key), row, key); }

/// One line of a few words: a terminal shows it.
std::string printable(std::string text) {
  std::erase_if(text, [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  return text.substr(0, 100);
}

ComparedTest llama_bench_test(const JsonObject& row) {
  ComparedTest test;
  test.prompt = row.integer("n_prompt", 0, most);
  test.generate = row.integer("n_gen", 0, most);
  test.depth = row.integer_or("n_depth", 0, 0, most);  // older ones have none
  test.threads = row.integer_or("n_threads", 0, 0, most);
  if (test.prompt + test.generate == 0)
    fail("{} and n_gen are both 0, expected one of them to be more", row.field("n_prompt"));
  // "CPU" is what it says of a processor whose name it does not know.
  const std::string processor = row.string_or("cpu_info", ""), card = row.string_or("gpu_info", "");
  if (processor != "CPU") test.machine = processor;
  if (!card.empty()) test.machine += " with " + card;
  test.machine = printable(test.machine);

  std::vector<double> samples;
  if (row.has("samples_ts")) {
    for (const Json& value : row.array("samples_ts")) {
      if (!value.is_number())
        fail("{} holds {}, expected numbers", row.field("samples_ts"), value.type_name());
      samples.push_back(value.get<double>());
    }
  }
  test.rate = samples.empty() ? rate_of(row, "avg_ts")
                              : positive(spread_of(std::move(samples)).median, row, "samples_ts");
  return test;
}

/// A prompt for each of pl sequences, or one that all share, and then generation after it.
void add_batched_bench_tests(const JsonObject& row, std::vector<ComparedTest>& tests) {
  const std::int64_t prompt = row.integer("pp", 0, most), generate = row.integer("tg", 0, most);
  const std::int64_t batch = row.integer("pl", 1, most);
  const bool shared = row.integer_or("is_pp_shared", 0, 0, 1) == 1;
  if (prompt > 0)
    tests.push_back({.prompt = prompt,
                     .batch = shared ? 1 : batch,
                     .rate = rate_of(row, "speed_pp"),
                     .threads = row.integer_or("n_threads_batch", 0, 0, most),
                     .machine = {}});
  if (generate > 0)
    tests.push_back({.generate = generate,
                     .depth = prompt,
                     .batch = batch,
                     .rate = rate_of(row, "speed_tg"),
                     .threads = row.integer_or("n_threads", 0, 0, most),
                     .machine = {}});
}

void add_own_tests(const JsonObject& run, std::vector<ComparedTest>& tests) {
  const std::int64_t threads = run.integer_or("threads", 0, 0, most);
  const std::string machine = printable(run.string_or("processor", ""));
  for (const JsonObject& row : run.objects("tests")) {
    const std::string phase = row.string("phase");
    if (phase != "prompt" && phase != "generate")
      fail("{} is \"{}\", expected \"prompt\" or \"generate\"", row.field("phase"), printable(phase));
    ComparedTest test{.depth = row.integer("depth", 0, most),
                      .batch = row.integer("batch", 1, most),
                      .groups = row.integer("groups", 1, most),
                      .rate = rate_of(row, "median"),
                      .threads = threads,
                      .machine = machine};
    (phase == "prompt" ? test.prompt : test.generate) = row.integer("tokens", 1, most);
    tests.push_back(std::move(test));
  }
}

/// Adds the tests of an object of any of the forms, and returns the engine that wrote it.
std::string add_tests(const JsonObject& object, const std::string& file, std::vector<ComparedTest>& tests) {
  if (object.has("tests")) {
    add_own_tests(object, tests);
    return "fathom";
  }
  if (object.has("n_prompt") && object.has("n_gen")) {
    tests.push_back(llama_bench_test(object));
    return "llama.cpp";
  }
  if (object.has("pp") && object.has("tg") && object.has("pl")) {
    add_batched_bench_tests(object, tests);
    return "llama.cpp";
  }
  std::string fields;
  for (const auto& [key, value] : object.raw().items()) {
    if (fields.size() > 100) {
      fields += ", ...";
      break;
    }
    fields += (fields.empty() ? "" : ", ") + printable(key);
  }
  fail("{}: an object of {}, not of a test", file, fields.empty() ? "no fields" : "the fields " + fields);
}

/// llama-batched-bench writes the speed of no prompt as "nan" or "-nan", which is not JSON; nobody reads it.
void replace_nan(std::string& text) {
  constexpr std::string_view key = "\"speed_pp\": ", nan = "nan";
  for (std::size_t at = 0; (at = text.find(key, at)) != std::string::npos;) {
    at += key.size();
    const std::size_t digits = at < text.size() && text[at] == '-' ? at + 1 : at;
    if (text.compare(digits, nan.size(), nan) == 0) text.replace(digits, nan.size(), "0.0");
  }
}

void read_tests(std::string text, ComparedRun& run) {
  const std::string file = run.file.string();
  const auto take = [&](const JsonObject& object) {
    const std::string engine = add_tests(object, file, run.tests);
    if (!run.engine.empty() && run.engine != engine)
      fail("{}: tests of {} and of {}, expected one engine a file", file, run.engine, engine);
    run.engine = engine;
    return true;
  };
  constexpr std::string_view blank = " \t\r\n";
  const std::size_t start = text.find_first_not_of(blank);
  if (start == std::string::npos) fail("{}: nothing in it", file);
  const std::size_t end = text.find_last_not_of(blank, text.find('\n', start));
  if (text[start] == '{' && text[end] == '}') {
    replace_nan(text);
    for_each_json_line(text, file, take);
    return;
  }
  const Json document = parse_json(text, file);
  if (document.is_array()) {
    for (std::size_t i = 0; i < document.size(); ++i)
      take(JsonObject(document[i], file, fmt::format("[{}]", i)));
  } else {
    take(JsonObject(document, file));
  }
}

}  // namespace

bool ComparedTest::matches(const Workload& work) const {
  const bool of_prompt = work.phase == Phase::prompt;
  return prompt == (of_prompt ? work.tokens : 0) && generate == (of_prompt ? 0 : work.tokens) &&
         depth == work.depth && batch == work.batch && (groups == 0 || groups == work.groups);
}

std::string ComparedTest::name() const {
  if (generate == 0) return Workload{Phase::prompt, prompt, depth, batch, groups}.name();
  const std::string generation = Workload{Phase::generate, generate, depth, batch, groups}.name();
  return prompt > 0 ? fmt::format("pp{}+{}", prompt, generation) : generation;
}

const ComparedTest* ComparedRun::counterpart(const Workload& work) const {
  const ComparedTest* best = nullptr;
  for (const ComparedTest& test : tests)
    if (test.matches(work) && (best == nullptr || test.rate > best->rate)) best = &test;
  return best;
}

Json ComparedRun::beside(const Workload& work, double rate) const {
  const ComparedTest* test = counterpart(work);
  if (test == nullptr) return nullptr;
  return {{"engine", engine}, {"tokens_per_second", test->rate}, {"ratio", rate / test->rate}};
}

std::vector<std::string> ComparedRun::unmatched(std::span<const Workload> works) const {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const ComparedTest& test : tests) {
    const bool matched = std::ranges::any_of(works, [&](const Workload& work) { return test.matches(work); });
    if (!matched && seen.insert(test.name()).second) names.push_back(test.name());
  }
  return names;
}

std::string ComparedRun::differences(std::span<const Workload> works, std::int64_t threads,
                                     const std::string& machine) const {
  std::set<std::int64_t> other_threads;
  std::set<std::string> other_machines;
  for (const Workload& work : works) {
    const ComparedTest* test = counterpart(work);
    if (test == nullptr) continue;
    if (test->threads > 0 && test->threads != threads) other_threads.insert(test->threads);
    if (!test->machine.empty() && test->machine != machine) other_machines.insert(test->machine);
  }
  std::string text;
  if (!other_threads.empty())
    text = fmt::format("compares {} thread{} with {}", threads, threads == 1 ? "" : "s",
                       fmt::join(other_threads, " and "));
  if (!other_machines.empty())
    text += fmt::format("{} {} with {}", text.empty() ? "compares" : ",", machine,
                        fmt::join(other_machines, " and "));
  return text;
}

ComparedRun read_compared_run(const std::filesystem::path& file) {
  ComparedRun run{.file = file, .engine = {}, .tests = {}};
  std::string text = read_file(file, std::size_t{64} << 20);
  try {
    read_tests(std::move(text), run);
    if (run.tests.empty()) fail("{}: no test in it", file.string());
  } catch (const Error& e) {
    fail(
        "{}; compared can be what llama-bench -o json or -o jsonl, llama-batched-bench --output-format jsonl "
        "or fathom bench --json writes",
        e.what());
  }
  return run;
}

}  // namespace fathom
