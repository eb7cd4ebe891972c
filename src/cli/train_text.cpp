#include "cli/train_text.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "corpus/inputs.h"
#include "runtime/engine.h"
#include "runtime/model.h"
#include "runtime/self_corpus.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

// A run of so many minutes reads at most so much text, about a hundred times what two cores train on.
constexpr double read_per_minute = 5e6;

/// The files behind some names. Where there are more than the run can read, the seed draws which come first.
TextInput text_input(const std::vector<std::string>& names, const TrainVerb& verb, std::int64_t most_tokens) {
  TextInput input{.files = {},
                  .reading = {.field = verb.field, .format = text_format(verb.text_format)},
                  .most_tokens = most_tokens,
                  .context = verb.training.context};
  for (const std::string& name : names) {
    const std::vector<fs::path> files = find_inputs(name);
    for (std::int64_t i = 0; i < std::ssize(files); ++i) {
      input.files.push_back(
          files[static_cast<std::size_t>(permuted(i, std::ssize(files), verb.common.seed))]);
    }
  }
  return input;
}

/// A source for each --text with --mix, else one of all.
std::vector<std::vector<std::string>> sources(const TrainVerb& verb) {
  if (verb.mix.empty()) return {verb.text};
  if (verb.mix.size() != verb.text.size()) {
    fail_usage("--mix has {} weights for {} of --text, expected one for each", verb.mix.size(),
               verb.text.size());
  }
  for (const double weight : verb.mix) {
    if (!(weight > 0)) fail_usage("--mix has a weight of {}, expected more than 0", weight);
  }
  std::vector<std::vector<std::string>> result;
  for (const std::string& name : verb.text) result.push_back({name});
  return result;
}

template <typename Read>
std::vector<MixedSource> mixed(const TrainVerb& verb, std::int64_t most_tokens, const Read& read) {
  const double all = std::accumulate(verb.mix.begin(), verb.mix.end(), 0.0);
  std::vector<MixedSource> result;
  for (const auto& names : sources(verb)) {
    const std::size_t i = result.size();
    const double weight = verb.mix.empty() ? 1 : verb.mix[i];
    const double share = verb.mix.empty() ? 1 : weight / all;
    const auto most = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(most_tokens)));
    result.push_back({.store = read(text_input(names, verb, most), i), .weight = weight});
  }
  return result;
}

}  // namespace

std::vector<MixedSource> training_text(const TrainVerb& verb, const TrainInputs& inputs,
                                       const Tokenizer& tokenizer, const TrainOptions& options,
                                       const fs::path& work) {
  if (verb.text.empty()) {
    const Checkpoint& author = inputs.teacher != nullptr ? *inputs.teacher : inputs.student;
    Engine engine(author, {.compute = float_compute(author)});
    const SelfCorpusOptions corpus{
        .tokens = std::min(options.tokens, verb.samples), .length = options.context, .seed = options.seed};
    const auto documents = kept_self_corpus(engine, tokenizer, corpus, work / "samples.jsonl");
    return {{.store = store_documents(documents, *tokenizer.eos(), (work / "samples.jsonl").string())}};
  }
  const double in_time = options.max_minutes > 0 ? options.max_minutes * read_per_minute : 1e15;
  const auto most = std::min(options.tokens, static_cast<std::int64_t>(in_time));
  return mixed(verb, most, [&](const TextInput& input, std::size_t i) {
    return cached_tokens(input, tokenizer, inputs.student.config.vocab_size,
                         work / "tokens" / fmt::format("{}", i), !verb.resume.empty());
  });
}

std::vector<MixedSource> some_text(const TrainVerb& verb, const Checkpoint& student,
                                   const Tokenizer& tokenizer, const TrainOptions& options) {
  const std::int64_t tokens = options.context * options.micro_batch;
  if (verb.text.empty()) {
    std::vector<Token> any;
    for (std::int64_t i = 0; i < tokens; ++i) {
      any.push_back(static_cast<Token>(i * 7919 % student.config.vocab_size));
    }
    return {{.store = store_documents({any}, *tokenizer.eos(), "any tokens")}};
  }
  return mixed(verb, tokens, [&](const TextInput& input, std::size_t) {
    return read_tokens(input, tokenizer, student.config.vocab_size);
  });
}

std::vector<fs::path> training_files(const TrainVerb& verb) { return text_input(verb.text, verb, 0).files; }

TokenStore held_out_text(const TrainVerb& verb, const Checkpoint& student, const Tokenizer& tokenizer) {
  if (verb.held_out.empty()) return {};
  return read_tokens(text_input(verb.held_out, verb, verb.held_out_tokens), tokenizer,
                     student.config.vocab_size);
}

}  // namespace fathom
