#include "compress/data.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "formats/documents.h"
#include "runtime/self_corpus.h"

namespace fathom {
namespace {

std::int64_t total(const std::vector<std::vector<Token>>& documents) {
  std::int64_t tokens = 0;
  for (const auto& document : documents) tokens += static_cast<std::int64_t>(document.size());
  return tokens;
}

std::vector<std::vector<Token>> read_documents(const Tokenizer& tokenizer,
                                               const std::vector<std::filesystem::path>& files,
                                               TextFormat format, std::int64_t most) {
  std::vector<std::vector<Token>> documents;
  Progress progress("reading text", most, "tok");
  std::int64_t tokens = 0;
  for_each_document(files, {.field = "text", .format = format}, [&](std::string&& text) {
    check_interrupt();
    documents.push_back(tokenizer.encode(text, false));
    tokens += static_cast<std::int64_t>(documents.back().size());
    progress.advance(static_cast<std::int64_t>(documents.back().size()));
    return tokens < most;
  });
  return documents;
}

/// Takes the last `count` tokens of the documents away, whole documents as far as possible.
std::vector<Token> hold_out(std::vector<std::vector<Token>>& documents, std::int64_t count) {
  std::vector<Token> held;
  while (static_cast<std::int64_t>(held.size()) < count && !documents.empty()) {
    auto& last = documents.back();
    const std::int64_t wanted = count - static_cast<std::int64_t>(held.size());
    const auto from = std::max<std::int64_t>(0, static_cast<std::int64_t>(last.size()) - wanted);
    held.insert(held.begin(), last.begin() + from, last.end());
    last.resize(static_cast<std::size_t>(from));
    if (last.empty()) documents.pop_back();
  }
  return held;
}

}  // namespace

Data gather_data(Engine& engine, const Tokenizer& tokenizer, const CompressOptions& options,
                 const DataSize& size, const std::filesystem::path& work) {
  Data data;
  if (!tokenizer.eos())
    fail("{}: the tokenizer names no end-of-text token, which training puts between documents",
         options.model.string());
  data.separator = *tokenizer.eos();
  if (options.text.empty()) {
    const SelfCorpusOptions corpus{.tokens = size.sample_tokens,
                                   .length = size.context,
                                   .batch = size.sample_batch,
                                   .seed = options.seed};
    // How many are asked for follows from the speed of the hour: half as many of an earlier job's will do.
    data.train = kept_self_corpus(engine, tokenizer, corpus, work / "samples.jsonl", size.sample_tokens / 2);
    data.account["train"] = "the original's own samples";
  } else {
    data.train = read_documents(tokenizer, options.text, text_format(options.text_format), size.read_tokens);
    data.account["train"] =
        options.text.front().string() +
        (options.text.size() > 1 ? fmt::format(" and {} more", options.text.size() - 1) : "");
  }
  if (options.eval_text.empty()) {
    data.eval = hold_out(data.train, std::min(size.eval_tokens, total(data.train) / 5));
    data.account["eval"] = "a held-out part of " + data.account["train"].get<std::string>();
  } else {
    data.eval = tokenizer.encode(read_text(options.eval_text, text_format(options.text_format)), false);
    data.account["eval"] = options.eval_text.string();
  }
  for (const auto& document : data.train) {
    if (static_cast<std::int64_t>(data.calibration.size()) >= size.calibration_tokens) break;
    data.calibration.insert(data.calibration.end(), document.begin(), document.end());
    data.calibration.push_back(data.separator);
  }
  for (const auto* part : {&data.eval, &data.calibration}) {
    if (static_cast<std::int64_t>(part->size()) < size.context + 1) {
      fail("{}: too little text: {} tokens to {} with, at least {} are needed",
           options.text.empty() ? options.model.string() : options.text.front().string(), part->size(),
           part == &data.eval ? "evaluate" : "calibrate", size.context + 1);
    }
  }
  data.account["train_tokens"] = total(data.train);
  data.account["eval_tokens"] = data.eval.size();
  data.account["calibration_tokens"] = data.calibration.size();
  return data;
}

}  // namespace fathom
