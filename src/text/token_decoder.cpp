#include "text/token_decoder.h"

#include "base/error.h"
#include "text/normalizer.h"
#include "text/pretokenizer.h"
#include "text/unicode.h"

namespace fathom {
namespace {

class SpacesBetween : public DecodeStep {
 public:
  void push(std::string_view piece, const Next& next) override {
    if (!std::exchange(first_, false)) next(" ");
    next(piece);
  }

 private:
  bool first_ = true;
};

/// GPT-2's alphabet back to bytes. A piece with any other character stands for itself.
class ByteLevel : public DecodeStep {
 public:
  void push(std::string_view piece, const Next& next) override {
    const std::size_t before = held_.size();
    for (std::size_t at = 0; at < piece.size();) {
      const int byte = character_to_byte(next_code_point(piece, at));
      if (byte < 0) {
        held_.resize(before);
        held_ += piece;
        break;
      }
      held_ += static_cast<char>(byte);
    }
    flush(next, false);
  }
  void finish(const Next& next) override { flush(next, true); }

 private:
  void flush(const Next& next, bool final) {
    std::string text;
    held_.erase(0, append_lossy(text, held_, final));
    if (!text.empty()) next(text);
  }
  std::string held_;  // the beginning of a character
};

/// Runs of "<0xE2>" to the characters that they spell; if a run is not UTF-8, each byte of it becomes U+FFFD.
/// So a run is certain only when it has ended.
class ByteFallback : public DecodeStep {
 public:
  void push(std::string_view piece, const Next& next) override {
    if (const int byte = value(piece); byte >= 0) {
      run_ += static_cast<char>(byte);
    } else {
      finish(next);
      next(piece);
    }
  }
  void finish(const Next& next) override {
    if (run_.empty()) return;
    if (is_valid_utf8(run_)) {
      next(run_);
    } else {
      for (std::size_t i = 0; i < run_.size(); ++i) next("\xEF\xBF\xBD");
    }
    run_.clear();
  }

 private:
  static int value(std::string_view piece) {
    if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
    const auto digit = [](char c) {
      if (c >= '0' && c <= '9') return c - '0';
      if (c >= 'A' && c <= 'F') return c - 'A' + 10;
      if (c >= 'a' && c <= 'f') return c - 'a' + 10;
      return -1;
    };
    const int high = digit(piece[3]), low = digit(piece[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
  }
  std::string run_;
};

class Replace : public DecodeStep {
 public:
  Replace(TextPattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void push(std::string_view piece, const Next& next) override {
    next(pattern_.replace_all(piece, content_));
  }

 private:
  TextPattern pattern_;
  std::string content_;
};

/// Spaces for SentencePiece's visible ones; those of the first piece go when encoding puts one there.
class Metaspace : public DecodeStep {
 public:
  Metaspace(std::string replacement, bool drop_first)
      : replacement_(std::move(replacement)), drop_(drop_first) {}
  void push(std::string_view piece, const Next& next) override {
    next(replacement_.replace_all(piece, drop_ ? "" : " "));
    drop_ = false;
  }

 private:
  TextPattern replacement_;
  bool drop_;
};

/// Takes up to `start` and `stop` copies of a character from the ends of each piece, or of the whole text.
class Strip : public DecodeStep {
 public:
  Strip(std::string character, std::size_t start, std::size_t stop, bool whole)
      : character_(std::move(character)), start_(start), stop_(stop), whole_(whole), left_(start) {}

  void push(std::string_view piece, const Next& next) override {
    while (left_ > 0 && piece.starts_with(character_)) {
      piece.remove_prefix(character_.size());
      --left_;
    }
    if (!piece.empty()) left_ = 0;
    held_ += piece;
    // Characters at the end wait: they may be the last of the text.
    std::size_t keep = 0;
    while (keep < stop_ &&
           std::string_view(held_).substr(0, held_.size() - keep * character_.size()).ends_with(character_))
      ++keep;
    const std::size_t certain = held_.size() - keep * character_.size();
    if (certain > 0) next(std::string_view(held_).substr(0, certain));
    held_.erase(0, certain);
    if (!whole_) {
      held_.clear();
      left_ = start_;
    }
  }
  void finish(const Next& /*next*/) override { held_.clear(); }  // which stood at the end

 private:
  std::string character_;
  std::size_t start_, stop_;
  bool whole_;
  std::size_t left_;  // still to take from the start
  std::string held_;
};

}  // namespace

void RunningDecoder::run(std::size_t step, std::string_view piece, std::string& out) {
  if (step == steps_.size()) {
    out += piece;
  } else {
    steps_[step]->push(piece, [&](std::string_view text) { run(step + 1, text, out); });
  }
}

void RunningDecoder::finish(std::string& out) {
  for (std::size_t step = 0; step < steps_.size(); ++step)
    steps_[step]->finish([&](std::string_view text) { run(step + 1, text, out); });
}

TokenDecoder::TokenDecoder() {
  steps_.emplace_back([] { return std::make_unique<SpacesBetween>(); });
}

TokenDecoder::TokenDecoder(const JsonObject& object) { add(object, 0); }

RunningDecoder TokenDecoder::start() const {
  std::vector<std::unique_ptr<DecodeStep>> running;
  for (const auto& step : steps_) running.push_back(step());
  return RunningDecoder(std::move(running));
}

void TokenDecoder::add(const JsonObject& object, int depth) {
  const std::string type = object.string("type");
  if (type == "Sequence") {
    if (depth == deepest_sequence) fail("{} is nested too deeply", object.field("decoders"));
    for (const JsonObject& part : object.objects("decoders")) add(part, depth + 1);
    return;
  }
  if (fused_ && type != "Strip" && type != "Fuse")
    fail("{} is '{}' after Fuse or ByteLevel, where only Strip is supported", object.field("type"), type);
  if (type == "ByteLevel") {
    steps_.emplace_back([] { return std::make_unique<ByteLevel>(); });
    fused_ = true;
  } else if (type == "ByteFallback") {
    steps_.emplace_back([] { return std::make_unique<ByteFallback>(); });
  } else if (type == "Fuse") {
    fused_ = true;
  } else if (type == "Replace") {
    steps_.emplace_back([pattern = TextPattern(object), content = object.string("content")] {
      return std::make_unique<Replace>(pattern, content);
    });
  } else if (type == "Metaspace") {
    const bool drops = object.string_or("prepend_scheme", "always") != "never" &&
                       object.boolean_or("add_prefix_space", true);
    steps_.emplace_back([replacement = read_character(object, "replacement"), drops] {
      return std::make_unique<Metaspace>(replacement, drops);
    });
  } else if (type == "Strip") {
    const auto start = object.integer_or("start", 0, 0, 1 << 20),
               stop = object.integer_or("stop", 0, 0, 1 << 20);
    steps_.emplace_back([character = read_character(object, "content"), start, stop, whole = fused_] {
      return std::make_unique<Strip>(character, start, stop, whole);
    });
  } else {
    fail(
        "{} is '{}', which is not supported; supported: ByteLevel, Replace, ByteFallback, Fuse, Strip, "
        "Metaspace, Sequence",
        object.field("type"), type);
  }
}

}  // namespace fathom
