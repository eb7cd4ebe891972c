// From tokens' pieces back to text ("decoder" of tokenizer.json), as a stream: a whole text is decoded by the
// same steps as one token after another, so that both give the same.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace fathom {

/// One step at work. It takes pieces and hands on what is certain; finish() hands on the rest. What is pushed
/// after that continues the same text.
class DecodeStep {
 public:
  using Next = std::function<void(std::string_view)>;
  virtual ~DecodeStep() = default;
  virtual void push(std::string_view piece, const Next& next) = 0;
  virtual void finish(const Next& /*next*/) {}
};

/// The steps at work on one sequence of tokens.
class RunningDecoder {
 public:
  explicit RunningDecoder(std::vector<std::unique_ptr<DecodeStep>> steps) : steps_(std::move(steps)) {}
  /// Appends the text that is certain after one more piece: whole UTF-8 characters.
  void push(std::string_view piece, std::string& out) { run(0, piece, out); }
  /// Appends what was held back; what is pushed after that continues the same text.
  void finish(std::string& out);

 private:
  void run(std::size_t step, std::string_view piece, std::string& out);
  std::vector<std::unique_ptr<DecodeStep>> steps_;
};

class TokenDecoder {
 public:
  TokenDecoder();  ///< no decoder: pieces with spaces between them
  /// From the object of tokenizer.json: ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence.
  /// Throws Error naming the field; others are refused by name.
  explicit TokenDecoder(const JsonObject& object);

  RunningDecoder start() const;

 private:
  void add(const JsonObject& object, int depth);
  std::vector<std::function<std::unique_ptr<DecodeStep>()>> steps_;
  bool fused_ = false;  // what comes next sees one long piece, in parts
};

}  // namespace fathom
