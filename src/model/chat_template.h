// Chat templates: the subset of Jinja that models' templates use, with the whitespace rules of transformers
// (trim_blocks, lstrip_blocks).
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/json.h"

namespace fathom {

class ChatTemplate {
 public:
  /// Parses the source. Throws Error naming what is not supported and the line.
  explicit ChatTemplate(std::string_view source);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  /// Renders with the variables of `context` ({"messages": [{"role", "content"}], "add_generation_prompt":
  /// true, "bos_token": ...}). raise_exception in the template, unknown names in use and endless output
  /// become Error.
  std::string render(const Json& context) const;

  struct Node;

 private:
  std::unique_ptr<Node> root_;
};

}  // namespace fathom
