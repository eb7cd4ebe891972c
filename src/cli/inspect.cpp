// fathom inspect: what a model is, how large, and how large its recursive forms would be.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/progress.h"
#include "cli/verbs.h"
#include "depth/recur.h"
#include "model/checkpoint.h"

namespace fathom {
namespace {

struct InspectOptions : CommonOptions {
  std::filesystem::path model;
  std::int64_t loops = 0;
  std::vector<std::int64_t> ranks{64, 128, 256, 512};
  std::string share = "cycle";
};

/// Bytes of keys and values that one token leaves behind at all visits: each element's, and of a head's
/// scale.
std::int64_t kv_bytes(const Checkpoint& checkpoint, std::int64_t element, std::int64_t scale) {
  const ModelConfig& config = checkpoint.config;
  return 2 * checkpoint.plan.depth() * config.kv_heads * (config.head_dim * element + scale);
}

Json sizes(const ModelConfig& config) {
  return {{"hidden_size", config.hidden_size},     {"intermediate_size", config.intermediate_size},
          {"vocab_size", config.vocab_size},       {"heads", config.heads},
          {"kv_heads", config.kv_heads},           {"head_dim", config.head_dim},
          {"max_positions", config.max_positions}, {"tied_embeddings", config.tied_embeddings}};
}

Json account(const Checkpoint& checkpoint) {
  const ParameterCount count = count_parameters(checkpoint);
  Json visits = Json::array();
  for (const Visit& visit : checkpoint.plan.visits) visits.push_back(visit_parameters(checkpoint, visit));
  std::map<std::string, std::int64_t> attention;
  for (const Visit& visit : checkpoint.plan.visits)
    attention[checkpoint.config.attention_types[static_cast<std::size_t>(visit.type)].name]++;
  return {{"architecture", checkpoint.config.architecture},
          {"plan", to_json(checkpoint.plan)},
          {"description", checkpoint.plan.describe()},
          {"configuration", sizes(checkpoint.config)},
          {"attention", attention},
          {"parameters",
           {{"total", count.embedding + count.non_embedding()},
            {"embedding", count.embedding},
            {"layers", count.layers},
            {"adapters", count.adapters},
            {"exits", count.exits},
            {"unrolled", count.unrolled},
            {"visits", std::move(visits)}}},
          {"bytes", count.bytes},
          {"kv_bytes_per_token",
           {{"int8", kv_bytes(checkpoint, 1, 4)},
            {"bf16", kv_bytes(checkpoint, 2, 0)},
            {"f32", kv_bytes(checkpoint, 4, 0)}}},
          {"provenance", checkpoint.provenance}};
}

void print_account(std::FILE* out, const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config;
  const ParameterCount count = count_parameters(checkpoint);
  fmt::print(out, "architecture   {}\nplan           {}\n", config.architecture, checkpoint.plan.describe());
  fmt::print(
      out,
      "sizes          hidden {}, feed-forward {}, {} heads of {} ({} for keys and values), vocabulary {}, "
      "context {}\n",
      config.hidden_size, config.intermediate_size, config.heads, config.head_dim, config.kv_heads,
      config.vocab_size, config.max_positions);
  for (const AttentionType& type : config.attention_types)
    if (type.window > 0) fmt::print(out, "window         {} tokens ({})\n", type.window, type.name);
  fmt::print(out, "parameters     {}: embedding {}{}, layers {}, adapters {}\n",
             format_count(count.embedding + count.non_embedding()), format_count(count.embedding),
             config.tied_embeddings ? " (is the head too)" : " (with the head)", format_count(count.layers),
             format_count(count.adapters));
  fmt::print(out, "a visit        {}\n",
             format_count(visit_parameters(checkpoint, checkpoint.plan.visits.front())));
  fmt::print(out, "unrolled       {} (what a token passes through, besides the embedding)\n",
             format_count(count.unrolled));
  if (count.exits > 0) fmt::print(out, "exits          {} of their own\n", format_count(count.exits));
  if (count.bytes > 0) fmt::print(out, "stored         {}\n", format_bytes(count.bytes));
  fmt::print(out, "KV cache       {} a token in int8, {} in bf16, {} in f32\n",
             format_bytes(kv_bytes(checkpoint, 1, 4)), format_bytes(kv_bytes(checkpoint, 2, 0)),
             format_bytes(kv_bytes(checkpoint, 4, 0)));
}

/// The counts of arXiv 2410.20672 (tables 2 and F): parameters of the layers' matrices as they are, tied, and
/// relaxed at each rank.
Json recursive_counts(const Checkpoint& checkpoint, const InspectOptions& options) {
  const std::int64_t depth = checkpoint.plan.layers;
  const auto layer_of = share_layers(depth, options.loops, sharing_from_name(options.share));
  const std::int64_t unique = *std::max_element(layer_of.begin(), layer_of.end()) + 1;
  Json relaxed = Json::array();
  for (const std::int64_t rank : options.ranks)
    relaxed.push_back(
        {{"rank", rank}, {"parameters", relaxed_parameters(checkpoint.config, unique, depth, rank)}});
  return {{"layers", depth},
          {"unique_layers", unique},
          {"loops", options.loops},
          {"share", options.share},
          {"original", relaxed_parameters(checkpoint.config, depth, depth, 0)},
          {"recursive", relaxed_parameters(checkpoint.config, unique, depth, 0)},
          {"relaxed", std::move(relaxed)}};
}

void print_counts(std::FILE* out, const Json& counts) {
  const auto original = counts["original"].get<std::int64_t>();
  const auto row = [&](const std::string& what, std::int64_t parameters) {
    fmt::print(out, "{:<28}{:>8.3f} B {:>6.1f} %\n", what, static_cast<double>(parameters) * 1e-9,
               100.0 * static_cast<double>(parameters) / static_cast<double>(original));
  };
  fmt::print(out, "Parameters of the layers' matrices (without embedding and norms)\n");
  row(fmt::format("{} layers", counts["layers"].get<std::int64_t>()), original);
  row(fmt::format("{} layers, {} loops", counts["unique_layers"].get<std::int64_t>(),
                  counts["loops"].get<std::int64_t>()),
      counts["recursive"].get<std::int64_t>());
  for (const Json& entry : counts["relaxed"])
    row(fmt::format("  relaxed, rank {}", entry["rank"].get<std::int64_t>()),
        entry["parameters"].get<std::int64_t>());
}

void inspect(const InspectOptions& options) {
  std::FILE* out = options.json == "-" ? stderr : stdout;
  if (options.loops > 0) {
    const Json counts = recursive_counts(load_config(options.model), options);
    print_counts(out, counts);
    return emit_json(options, counts);
  }
  const bool configuration_alone = options.model.extension() == ".json";
  const Checkpoint checkpoint =
      configuration_alone ? load_config(options.model) : load_checkpoint(options.model);
  if (!checkpoint.config.gated)
    fail("{}: architecture '{}' is not supported; with --loops its recursive forms are counted",
         options.model.string(), checkpoint.config.architecture);
  print_account(out, checkpoint);
  emit_json(options, account(checkpoint));
}

}  // namespace

void add_inspect(CLI::App& program) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* verb = program.add_subcommand("inspect", "What a model is: configuration, depth plan, sizes");
  verb->add_option("MODEL", options->model,
                   "Directory (Hugging Face, Fathom), GGUF file, or a config.json alone")
      ->required();
  auto* loops = verb->add_option("--loops", options->loops,
                                 "Instead: count the parameters with the layers tied into this many loops")
                    ->check(CLI::Range(1, 4096));
  verb->add_option("--rank", options->ranks, "and relaxed by LoRA of these ranks")
      ->delimiter(',')
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20))
      ->needs(loops);
  verb->add_option("--share", options->share,
                   "and shared so: cycle, sequence, middle-cycle or middle-sequence")
      ->capture_default_str()
      ->needs(loops);
  add_common(*verb, *options, true);
  verb->footer("Example:\n  fathom inspect gemma-2b/config.json --loops 2 --rank 64,512");
  verb->callback([options] {
    apply_common(*options);
    inspect(*options);
  });
}

}  // namespace fathom
