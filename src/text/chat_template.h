// Chat templates: the subset of Jinja that models' templates use, rendered as transformers does it (jinja2's
// immutable sandbox with trim_blocks, lstrip_blocks and loop controls; raise_exception, strftime_now and a
// tojson that does not escape HTML).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/tokenizer.h"

namespace fathom {

namespace jinja {
struct Node;
}

/// Part of a text, in bytes.
struct TextRange {
  std::size_t begin = 0, end = 0;
};

/// A text, and what of it stands in the template's {% generation %} blocks: what the assistant says, where a
/// template marks that.
struct MarkedText {
  std::string text;
  std::vector<TextRange> generated;
};

class ChatTemplate {
 public:
  /// Parses the source, which is not trusted. Throws Error naming the line and the tag or syntax that is not
  /// supported (extends, include, import, block, recursive loops).
  explicit ChatTemplate(std::string_view source);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// Renders with the variables of `context` ({"messages": [{"role", "content"}], "add_generation_prompt":
  /// true, "bos_token": ...}). Throws Error naming the line when the template raises an exception, uses what
  /// is undefined, calls a filter, test or method that is not supported, or does too much: rendering ends
  /// within about a second and a quarter of a gigabyte, whatever the template is.
  std::string render(const Json& context) const { return render_marked(context).text; }
  MarkedText render_marked(const Json& context) const;

 private:
  std::unique_ptr<const jinja::Node> root_;
};

/// The variables that transformers gives a template: `messages`, `add_generation_prompt`, the texts of the
/// tokenizer's special tokens, and no tools or documents.
Json chat_context(const Tokenizer& tokenizer, Json messages, bool add_generation_prompt = true);

}  // namespace fathom
