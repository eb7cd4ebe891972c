#include "text/chat_template.h"

#include "base/error.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"

namespace fathom {
namespace {

constexpr std::size_t most_source = std::size_t{1} << 20;  // the longest of real models have some 30 KB

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source) {
  if (source.size() > most_source)
    fail("chat template: {} bytes, expected at most {}", source.size(), most_source);
  try {
    root_ = jinja::parse(source);
  } catch (const Error& e) {
    fail("chat template, {}", e.what());
  }
}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

MarkedText ChatTemplate::render_marked(const Json& context) const {
  jinja::Interpreter interpreter;
  MarkedText result{.text = interpreter.render(*root_, context), .generated = {}};
  for (const auto& [begin, end] : interpreter.generated()) result.generated.push_back({begin, end});
  return result;
}

Json chat_context(const Tokenizer& tokenizer, Json messages, bool add_generation_prompt) {
  Json context = {{"messages", std::move(messages)},
                  {"add_generation_prompt", add_generation_prompt},
                  {"tools", nullptr},
                  {"documents", nullptr}};
  for (const char* name : {"bos_token", "eos_token", "unk_token", "pad_token"}) {
    const std::string text = tokenizer.special_text(name);
    if (!text.empty()) context[name] = text;
  }
  return context;
}

}  // namespace fathom
