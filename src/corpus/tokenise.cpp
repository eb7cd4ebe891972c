#include "corpus/tokenise.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/progress.h"
#include "base/threads.h"
#include "corpus/document_encoder.h"
#include "formats/documents.h"

namespace fathom {
namespace {

// A batch: so much text, or so many documents, whatever their length.
constexpr std::size_t batch_bytes = std::size_t{4} << 20, batch_documents = 4096;

class Tokeniser {
 public:
  Tokeniser(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab, const TakeTokens& take)
      : input_(input), encoder_(tokenizer, vocab), take_(take), progress_("tokenising", 0, "tok") {}

  void run() {
    read_documents(input_.files, input_.reading, [&](Document&& document) {
      bytes_ += document.text.size() + document.conversation.dump().size();
      batch_.push_back(std::move(document));
      // A token has a byte or more: no batch has many more tokens than are still wanted.
      const auto wanted = static_cast<std::size_t>(input_.most_tokens - useful_);
      if (bytes_ >= std::min(batch_bytes, wanted) || batch_.size() >= batch_documents) flush();
      return !enough();
    });
    flush();
    progress_.finish();
    if (place_ == 0) fail("{}: no text in it to train on", input_.files.front().string());
  }

 private:
  const std::filesystem::path& file(const Document& document) const {
    return input_.files[static_cast<std::size_t>(document.file)];
  }
  bool enough() const { return useful_ >= input_.most_tokens; }

  /// Counts a token of the stream. Those of a sequence without anything to learn, which training leaves out,
  /// are not among the tokens that were wanted.
  void count(Token id, std::int64_t worth) {
    if (place_++ % input_.context == 0) {
      waiting_ = 0;
      learns_ = false;
    }
    waiting_ += worth;
    learns_ = learns_ || id >= 0;
    if (learns_) useful_ += std::exchange(waiting_, 0);
  }

  void flush() {
    check_interrupt();
    std::vector<std::vector<Token>> ids(batch_.size());
    parallel_for(std::ssize(batch_), [&](std::int64_t i) {
      const auto at = static_cast<std::size_t>(i);
      ids[at] = encoder_.encode(batch_[at], file(batch_[at]));
    });
    std::vector<Token> tokens;
    std::vector<DocumentStart> starts;
    for (std::size_t i = 0; i < batch_.size() && !enough(); ++i) {
      const Document& document = batch_[i];
      if (!open_ && !ids[i].empty()) {
        starts.push_back({.token = std::ssize(tokens), .file = document.file, .line = document.line});
        open_ = true;
      }
      tokens.insert(tokens.end(), ids[i].begin(), ids[i].end());
      for (const Token id : ids[i]) count(id, 1);
      if (!open_ || (document.more && !enough())) continue;
      tokens.push_back(encoder_.separator(document));
      count(tokens.back(), 0);
      open_ = false;
    }
    if (!tokens.empty()) take_(tokens, starts);
    progress_.advance(std::ssize(tokens));
    batch_.clear();
    bytes_ = 0;
  }

  const TextInput& input_;
  DocumentEncoder encoder_;
  const TakeTokens& take_;
  Progress progress_;
  std::vector<Document> batch_;
  std::size_t bytes_ = 0;
  bool open_ = false;                    ///< a document has begun and not ended
  std::int64_t place_ = 0, useful_ = 0;  ///< in the stream; of the tokens before it, those that count
  std::int64_t waiting_ = 0;             ///< of this sequence, and nothing in it was learned so far
  bool learns_ = false;                  ///< something in it is learned
};

}  // namespace

void tokenise(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab,
              const TakeTokens& take) {
  Tokeniser(input, tokenizer, vocab, take).run();
}

}  // namespace fathom
