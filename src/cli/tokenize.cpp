#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>

#include "base/error.h"
#include "base/file.h"
#include "base/interrupt.h"
#include "cli/verbs.h"
#include "text/tokenizer.h"

namespace fathom {
namespace {

struct TokenizeOptions : CommonOptions {
  std::string model;
  std::optional<std::string> text, file;
  std::vector<Token> ids;
  bool no_special = false;
};

std::string input(const TokenizeOptions& options) {
  if (options.text) return *options.text;
  if (options.file) return read_file(*options.file);
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  check_interrupt();  // a signal ends the wait for input
  return text;
}

void tokenize(const TokenizeOptions& options) {
  const Tokenizer tokenizer = load_tokenizer(options.model);
  std::string out;
  if (!options.ids.empty()) {
    out = tokenizer.decode(options.ids, options.no_special);
  } else {
    const std::vector<Token> ids = tokenizer.encode(input(options), !options.no_special);
    out = fmt::format("[{}]", fmt::join(ids, ", "));
  }
  out += '\n';
  std::fwrite(out.data(), 1, out.size(), stdout);
}

}  // namespace

void add_tokenize(CLI::App& program) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* verb = program.add_subcommand("tokenize", "Text to token ids, and back");
  verb->add_option("MODEL", options->model,
                   "Model directory (tokenizer.json is enough), tokenizer.json, or GGUF file")
      ->required();
  auto* text = verb->add_option("--text", options->text, "The text; without it and --file, standard input");
  auto* file =
      verb->add_option("--file", options->file, "A file with the text")->excludes(text)->type_name("FILE");
  verb->add_option("--decode", options->ids, "Ids to turn into text instead, with commas or spaces between")
      ->delimiter(',')
      ->check(at_least(0))
      ->excludes(text)
      ->excludes(file);
  verb->add_flag("--no-special", options->no_special,
                 "Put no special tokens (BOS) around the text; leave them out when decoding");
  add_common(*verb, *options, false);
  verb->footer(
      "The ids go to standard output as a JSON list.\n\nExample: fathom tokenize smollm2.gguf --text "
      "'Hello'");
  verb->callback([options] {
    apply_common(*options);
    tokenize(*options);
  });
}

}  // namespace fathom
