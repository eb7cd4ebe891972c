// fathom bench: speed of a model's two phases beside the ceilings of this machine.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "base/process.h"
#include "base/processor.h"
#include "base/progress.h"
#include "base/threads.h"
#include "cli/decoding.h"
#include "cli/verbs.h"
#include "eval/bench.h"
#include "eval/compared_runs.h"
#include "kernels/isa.h"
#include "model/checkpoint.h"
#include "runtime/engine.h"

namespace fathom {
namespace {

struct Options : CommonOptions {
  std::filesystem::path model;
  std::vector<std::int64_t> prompt{512}, generate{128}, depth{0}, batch{1}, groups{1};
  int repetitions = 5;
  std::string dtype = "auto", kv = "auto", csv, compare;
  bool trace = false;
  DecodingOptions decoding;
};

std::vector<Workload> workloads_of(const Options& options) {
  std::vector<Workload> works;
  const auto add = [&](Phase phase, std::int64_t tokens, std::int64_t depth, std::int64_t batch,
                       std::int64_t groups) {
    if (tokens > 0 && groups <= batch) works.push_back({phase, tokens, depth, batch, groups});
  };
  for (const std::int64_t batch : options.batch) {
    for (const std::int64_t depth : options.depth) {
      for (const std::int64_t tokens : options.prompt) add(Phase::prompt, tokens, depth, batch, 1);
      for (const std::int64_t tokens : options.generate)
        for (const std::int64_t groups : options.groups) add(Phase::generate, tokens, depth, batch, groups);
    }
  }
  if (works.empty()) fail_usage("nothing to measure: --prompt and --generate are both 0");
  return works;
}

void check_context(const std::vector<Workload>& works, const Checkpoint& checkpoint) {
  const std::int64_t most = checkpoint.config.max_positions;
  for (const Workload& work : works) {
    if (most > 0 && work.context() > most)
      fail_usage("{} needs a context of {} tokens, but {} has at most {}", work.name(), work.context(),
                 checkpoint.source.string(), most);
  }
}

// What does not fit would be killed by the system without a word.
void check_memory(const std::vector<Workload>& works, const Engine& engine) {
  const std::int64_t available = available_memory();
  for (const Workload& work : works) {
    const std::int64_t pages = (work.context() + page_positions - 1) / page_positions;
    const std::int64_t needed = work.batch * pages * page_positions * engine.token_kv_bytes();
    if (available > 0 && needed > available)
      fail(
          "{} needs {} for keys and values, but only {} of memory are free; use a smaller --batch or --depth",
          work.name(), format_bytes(needed), format_bytes(available));
  }
}

/// Says which of the file's tests are measured nowhere in `works`.
ComparedRun compare_with(const std::filesystem::path& file, const std::vector<Workload>& works) {
  ComparedRun compared = read_compared_run(file);
  const std::vector<std::string> names = compared.unmatched(works);
  constexpr std::size_t most_names = 20;
  if (!names.empty())
    print_note(
        fmt::format("{}: not measured here: {}{}", file.string(),
                    fmt::join(std::span(names).first(std::min(names.size(), most_names)), ", "),
                    names.size() > most_names ? fmt::format(" and {} more", names.size() - most_names) : ""));
  return compared;
}

/// What exits or drafts make of a test.
struct Early {
  Json figures;
  std::string line;
};

struct Run {
  Json header;  // what all tests have in common
  std::vector<BenchResult> results;
  std::vector<Early> early;
  std::optional<ComparedRun> compared;
  std::string differences;  // of its circumstances
};

Json as_json(const Run& run, const BenchResult& result) {
  Json test = to_json(result);
  if (run.compared) test["compared"] = run.compared->beside(result.work, result.rate.median);
  return test;
}

Json as_json(const Run& run) {
  Json all = run.header;
  all["tests"] = Json::array();
  for (const BenchResult& result : run.results) all["tests"].push_back(as_json(run, result));
  for (const Early& early : run.early) all["early"].push_back(early.figures);
  return all;
}

std::string csv_cell(const Json& value) {
  if (!value.is_string()) return value.dump();
  std::string quoted = "\"";
  for (const char c : value.get<std::string>()) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

/// One row a test, with the common values in each.
std::string as_csv(const Run& run) {
  std::string names, rows;
  for (const BenchResult& result : run.results) {
    Json row = run.header;
    row.update(as_json(run, result));
    names.clear();
    row.erase("samples");
    if (run.compared) {
      const Json beside = row["compared"];
      row.erase("compared");
      for (const std::string key : {"engine", "tokens_per_second", "ratio"})
        row["compared_" + key] = beside.is_null() ? Json("") : beside[key];
    }
    for (const auto& [name, value] : row.items()) {
      const char* comma = names.empty() ? "" : ",";
      names += comma + name;
      rows += comma + csv_cell(value);
    }
    rows += "\n";
  }
  return names + "\n" + rows;
}

std::string as_markdown(const Run& run) {
  std::vector<std::vector<std::string>> rows = {{"model", "parameters", "weights", "dtype", "KV", "threads",
                                                 "backend", "test", "tok/s", "GB/s", "GFLOP/s",
                                                 "of what the machine allows"}};
  if (run.compared) rows[0].insert(rows[0].end(), {run.compared->engine + " tok/s", "ratio"});
  const Json& head = run.header;
  const std::filesystem::path path = std::filesystem::path(head["model"].get<std::string>()) / "";
  const std::string name = path.parent_path().filename().string();  // of a directory with or without a slash
  for (const BenchResult& result : run.results) {
    const bool reading = result.bound_by_reading();
    const std::string ceiling = reading ? fmt::format("{:.1f} GB/s read", result.read_ceiling * 1e-9)
                                        : fmt::format("{:.0f} GFLOP/s {}", result.product_ceiling.rate * 1e-9,
                                                      result.product_ceiling.unit);
    rows.push_back(
        {name, format_count(head["parameters"].get<std::int64_t>()),
         format_bytes(head["weight_bytes"].get<std::int64_t>()), head["dtype"].get<std::string>(),
         head["kv"].get<std::string>(), head["threads"].dump(), head["isa"].get<std::string>(),
         result.work.name(), fmt::format("{:.2f} ± {:.2f}", result.rate.mean, result.rate.deviation),
         fmt::format("{:.1f}", result.read * 1e-9), fmt::format("{:.0f}", result.operations * 1e-9),
         fmt::format("{:.0f} % of {}", 100 * result.share(), ceiling)});
    if (!run.compared) continue;
    const Json beside = run.compared->beside(result.work, result.rate.median);
    for (const char* key : {"tokens_per_second", "ratio"})
      rows.back().push_back(beside.is_null() ? "-" : fmt::format("{:.2f}", beside[key].get<double>()));
  }
  // The sign ± has two bytes and one column: fmt counts columns.
  std::vector<std::size_t> width(rows[0].size());
  for (const auto& row : rows)
    for (std::size_t c = 0; c < row.size(); ++c)
      width[c] = std::max(width[c], fmt::formatted_size("{}", row[c]));
  rows.insert(rows.begin() + 1, std::vector<std::string>());
  std::string text;
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < width.size(); ++c)
      text += row.empty() ? "|" + std::string(width[c] + 2, '-') : fmt::format("| {:<{}} ", row[c], width[c]);
    text += "|\n";
  }
  text += fmt::format(
      "\nOn {}. From the start of the process: {:.2f} s to packed weights, {:.2f} s to the "
      "first token after a prompt of 8.\n",
      head["backend"].get<std::string>(), head["load_seconds"].get<double>(),
      head["first_token_seconds"].get<double>());
  for (const Early& early : run.early) text += early.line + "\n";
  if (run.compared)
    text += fmt::format("Ratio: of medians, to {} in {}{}{}.\n", run.compared->engine,
                        run.compared->file.string(), run.differences.empty() ? "" : "; ", run.differences);
  return text;
}

Early beside_full_depth(const Checkpoint& checkpoint, const BenchResult& full, const BenchResult& early,
                        const Options& options) {
  const DecodingOptions& decoding = options.decoding;
  const Decoder::Counts& counts = early.counts;
  const auto a_token = [&](std::int64_t count) {
    return static_cast<double>(count) / static_cast<double>(counts.tokens);
  };
  // A shortlist is so much of the head.
  const double heads = a_token(counts.heads) + a_token(counts.shortlists) *
                                                   static_cast<double>(checkpoint.shortlist().size()) /
                                                   static_cast<double>(checkpoint.config.vocab_size);
  const double times = early.rate.median / full.rate.median;
  Json figures = to_json(early);
  figures.update(
      {{"times_full_depth", times}, {"visits_a_token", a_token(counts.visits)}, {"heads_a_token", heads}});
  std::string line = fmt::format(
      "{} with {}: {:.2f} tok/s, {:.2f} times full depth; {}", early.work.name(),
      decoding.exit.empty() ? "drafts by " + decoding.draft : decoding.exit + ", " + decoding.exited_kv,
      early.rate.median, times, depth_line(counts, checkpoint.plan));
  if (decoding.exit.empty()) {
    figures.update({{"draft", decoding.draft},
                    {"passes", counts.verified},
                    {"drafted", counts.drafted},
                    {"accepted", counts.accepted}});
    return {figures, line};
  }
  const double bound = exit_bound(checkpoint, a_token(counts.visits), heads);
  // What Bae et al. (arXiv 2410.20672, appendix K) would say of it: they count the time of layers alone, and
  // neither heads nor embedding nor the keys and values of visits that were not made.
  const double layers_alone = static_cast<double>(checkpoint.plan.depth()) / a_token(counts.visits);
  figures.update({{"exit", decoding.exit},
                  {"exited_kv", decoding.exited_kv},
                  {"bound", bound},
                  {"layers_alone", layers_alone}});
  return {figures, fmt::format("{}, {:.2f} heads; the bound is {:.2f} times: {:.0f} % of it ({:.2f} times if "
                               "layers alone counted)",
                               line, heads, bound, 100 * times / bound, layers_alone)};
}

void emit(const Options& options, const Run& run) {
  if (run.results.empty()) return;
  const bool taken = options.json == "-" || options.csv == "-";
  fmt::print(taken ? stderr : stdout, "{}", as_markdown(run));
  emit_json(options, as_json(run));
  if (options.csv == "-")
    fmt::print("{}", as_csv(run));
  else if (!options.csv.empty())
    write_file(options.csv, as_csv(run));
}

void measure(const Options& options) {
  if (options.json == "-" && options.csv == "-")
    fail_usage("--json - and --csv - cannot both have the standard output; give one of them a file");
  const std::vector<Workload> works = workloads_of(options);
  std::optional<ComparedRun> compared;
  if (!options.compare.empty()) compared = compare_with(options.compare, works);
  const Checkpoint checkpoint = load_checkpoint(options.model);
  check_context(works, checkpoint);
  const DecoderOptions decoder = decoder_options(options.decoding, checkpoint.plan);
  const Compute compute = choose_compute(options.dtype, checkpoint);
  Engine engine(checkpoint, {.compute = compute,
                             .kv = choose_kv(options.kv),
                             .single_slot = decoder.exited_kv == ExitedKv::single,
                             .trace = options.trace,
                             .cache = user_cache()});
  const double loaded = process_seconds();
  check_memory(works, engine);
  time_workload(engine, {Phase::prompt, std::min<std::int64_t>(8, engine.max_context())}, 0);
  const double first_token = process_seconds();

  const ParameterCount count = count_parameters(checkpoint);
  Run run = {.header = {{"model", options.model.string()},
                        {"parameters", count.embedding + count.non_embedding()},
                        {"weight_bytes", engine.weight_bytes()},
                        {"dtype", compute_name(compute)},
                        {"kv", compute_name(engine.kv_type())},
                        {"kv_bytes_per_token", engine.token_kv_bytes()},
                        {"processor", processor_name()},
                        {"threads", thread_count()},
                        {"isa", isa_name(isa())},
                        {"backend", engine.backend().describe()},
                        {"repetitions", options.repetitions},
                        {"load_seconds", loaded},
                        {"first_token_seconds", first_token}},
             .results = {},
             .early = {},
             .compared = std::move(compared),
             .differences = {}};
  if (run.compared) run.differences = run.compared->differences(works, thread_count(), processor_name());
  std::int64_t tokens = 0;
  const bool early = decoder.exit != nullptr || decoder.draft.visits > 0;
  for (const Workload& work : works)
    tokens += work.total() * (options.repetitions + 1) * (early && work.phase == Phase::generate ? 2 : 1);
  Progress progress("bench", tokens, "tok");
  const auto measured = [&](const Workload& work, const DecoderOptions& own) {
    return bench(engine, checkpoint, operand_of(engine.layer_type()), work, own, options.repetitions,
                 progress);
  };
  try {
    for (const Workload& work : works) {
      run.results.push_back(measured(work, {}));
      if (early && work.phase == Phase::generate)
        run.early.push_back(
            beside_full_depth(checkpoint, run.results.back(), measured(work, decoder), options));
    }
  } catch (const Interrupted&) {
    progress.finish();
    emit(options, run);  // what is complete is not thrown away
    throw;
  }
  progress.finish();
  emit(options, run);
}

}  // namespace

void add_bench(CLI::App& program) {
  auto options = std::make_shared<Options>();
  CLI::App* verb =
      program.add_subcommand("bench", "Speed of prompts and generation beside the machine's limits");
  verb->add_option("MODEL", options->model, "Directory (Hugging Face, Fathom) or GGUF file")->required();
  const auto list = [&](const char* name, std::vector<std::int64_t>& values, const char* text, int least,
                        int most) {
    verb->add_option(name, values, text)
        ->delimiter(',')
        ->type_name("N,...")
        ->capture_default_str()
        ->check(CLI::Range(least, most).description(""));
  };
  list("--prompt", options->prompt, "Tokens of a prompt that goes through at once (pp512); 0 = none", 0,
       1 << 24);
  list("--generate", options->generate, "Tokens generated one by one (tg128); 0 = none", 0, 1 << 24);
  list("--depth", options->depth, "Tokens of context before either (@ d4096)", 0, 1 << 24);
  list("--batch", options->batch, "Sequences side by side; speeds are their sum (b16)", 1, 4096);
  list("--groups", options->groups, "Groups of sequences, spread over a token's depth (g2)", 1, 4096);
  verb->add_option("--repetitions,-r", options->repetitions, "Timed runs of each test, after one that is not")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000));
  add_decoding(*verb, options->decoding);
  add_dtype(*verb, options->dtype);
  add_kv(*verb, options->kv);
  verb->add_flag("--trace", options->trace,
                 "A line about each operation on standard error: shape, time, rates");
  verb->add_option("--csv", options->csv,
                   "Write one line a test, with min, median and max; - = standard output")
      ->type_name("FILE");
  verb->add_option("--compare", options->compare,
                   "Another run's tests, to give each here its ratio to: JSON of llama-bench or of this")
      ->type_name("FILE");
  add_common(*verb, *options, true);
  verb->footer(
      "Every combination of the lists is a test. The table gives tokens a second (mean ± standard "
      "deviation),\n"
      "GB/s (weights and KV that each step must read) and GFLOP/s, and the better of the two as a share of "
      "what\n"
      "this machine reaches in loops that only read, or only multiply, measured around each test.\n\n"
      "--compare FILE reads what llama-bench -o json or -o jsonl, llama-batched-bench --output-format jsonl "
      "or\n"
      "fathom bench --json wrote. A test's counterpart has the same prompt, generated tokens, depth and "
      "batch\n"
      "(and --groups, if it is ours); where the file has several, as with and without flash attention, the\n"
      "fastest. The ratio is this run's median over the counterpart's: above 1, this run is faster.\n\n"
      "With --exit (rules: fathom generate --help) or --draft generation runs at full depth, too, to "
      "compare.\n\n"
      "Example: a prompt of 512, then 64 tokens after 128 for 1, 16 and 32 sequences\n"
      "  fathom bench models/smollm2.gguf --prompt 512 --generate 0\n"
      "  fathom bench models/smollm2.gguf --prompt 0 --generate 64 --depth 128 --batch 1,16,32 --csv "
      "speed.csv\n\n"
      "Example: beside llama.cpp\n"
      "  llama-bench -m models/smollm2.gguf -t 2 -fa 0,1 -o json > llama.json\n"
      "  fathom bench models/smollm2.gguf --threads 2 --compare llama.json");
  verb->callback([options] {
    apply_common(*options);
    measure(*options);
  });
}

}  // namespace fathom
