#include "cli/train_mask.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "cli/train_text.h"
#include "corpus/document_encoder.h"
#include "model/checkpoint.h"

namespace fathom {
namespace {

bool has_colours() {
  const char* no_color = std::getenv("NO_COLOR");
  return ::isatty(STDOUT_FILENO) == 1 && (no_color == nullptr || *no_color == '\0');
}

/// Prints documents token by token.
class MaskView {
 public:
  MaskView(const Tokenizer& tokenizer, std::int64_t context)
      : tokenizer_(tokenizer), context_(context), colours_(has_colours()) {}

  void begin(const std::string& title) {
    fmt::print("{}{}\n", documents_++ == 0 ? "" : "\n", title);
    decoder_ = StreamDecoder(tokenizer_, false);
    tokens_ = learned_ = 0;
  }

  void add(Token id) {
    if (place_ % context_ == 0 && place_ > 0) {
      leave();
      fmt::print("\n---- sequence {} ----\n", place_ / context_ + 1);
    }
    enter(id >= 0 ? Kind::learned : Kind::read);
    print(decoder_.push(id < 0 ? ~id : id));
    ++place_;
    ++tokens_;
    learned_ += id >= 0 ? 1 : 0;
  }

  void end() {
    print(decoder_.finish());
    leave();
    fmt::print("\n{} tokens, {} of them learned\n", tokens_, learned_);
  }

 private:
  enum class Kind { none, read, learned };

  void enter(Kind kind) {
    if (kind == kind_) return;
    leave();
    kind_ = kind;
    const bool learned = kind == Kind::learned;
    fmt::print("{}", colours_ ? (learned ? "\x1b[32m" : "\x1b[2m") : (learned ? "[[" : ""));
  }

  void leave() {
    if (kind_ != Kind::none) fmt::print("{}", colours_ ? "\x1b[0m" : kind_ == Kind::learned ? "]]" : "");
    kind_ = Kind::none;
  }

  /// Control characters, which a terminal would obey, are spelled out.
  static void print(std::string_view text) {
    for (const char c : text) {
      const auto byte = static_cast<unsigned char>(c);
      const bool harmless = (byte >= 0x20 && byte != 0x7f) || c == '\n' || c == '\t';
      if (harmless) {
        std::fputc(c, stdout);
      } else {
        fmt::print("\\x{:02x}", byte);
      }
    }
  }

  const Tokenizer& tokenizer_;
  std::int64_t context_;
  bool colours_;
  StreamDecoder decoder_{tokenizer_, false};
  Kind kind_ = Kind::none;
  std::int64_t documents_ = 0, place_ = 0, tokens_ = 0, learned_ = 0;
};

}  // namespace

void show_mask(const TrainVerb& verb) {
  if (verb.text.empty()) fail_usage("--show-mask shows what is learned of --text, which is missing");
  const Tokenizer tokenizer = load_tokenizer(verb.model);
  const DocumentEncoder encoder(tokenizer, load_checkpoint(verb.model).config.vocab_size);
  MaskView view(tokenizer, verb.training.context);
  std::int64_t shown = 0;
  bool open = false;  // a document of several pieces
  const std::vector<std::filesystem::path> files = training_files(verb);
  const TextReading reading{.field = verb.field, .format = text_format(verb.text_format)};
  read_documents(files, reading, [&](Document&& document) {
    const std::filesystem::path& file = files[static_cast<std::size_t>(document.file)];
    const std::vector<Token> ids = encoder.encode(document, file);
    if (ids.empty() && !open) return true;  // training passes over it, too
    if (!open)
      view.begin(document.line == 0 ? file.string()
                                    : fmt::format("{} line {}", file.string(), document.line));
    for (const Token id : ids) view.add(id);
    open = document.more;
    if (open) return true;
    view.add(encoder.separator(document));
    view.end();
    return ++shown < verb.show_mask;
  });
}

}  // namespace fathom
