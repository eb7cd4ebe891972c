#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <optional>

#include "base/error.h"
#include "text/unicode.h"

namespace fathom {
namespace {

// Oniguruma's \s is the property White_Space. PCRE2's also has U+180E, so both are spelt out.
constexpr std::string_view white_space_set =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view other_set =
    R"(\x{0}-\x{8}\x{E}-\x{1F}\x{21}-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027})"
    R"(\x{202A}-\x{202E}\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{D7FF}\x{E000}-\x{10FFFF})";

constexpr std::size_t longest_pattern = 1 << 16;
// A sane pattern takes at most a few steps a character; this many in one place is catastrophic backtracking.
constexpr std::uint32_t match_limit = 20'000'000;
constexpr std::size_t jit_stack_start = 32 << 10, jit_stack_most = 4 << 20;

/// From Oniguruma's Ruby syntax to PCRE2's; what has another meaning there is refused.
std::string translate(std::string_view pattern, const std::string& field) {
  const auto refuse = [&](std::string_view what) {
    fail("{} has the regular expression '{}', in which '{}' is not supported", field, pattern, what);
  };
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const char next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (c == '\\') {
      ++i;
      if (next == 's' || next == 'S') {
        const std::string_view set = next == 's' ? white_space_set : other_set;
        out += in_class ? std::string(set) : "[" + std::string(set) + "]";
        continue;
      }
      if (std::string_view("wWbBhHRXKGgkNOuMC").find(next) != std::string_view::npos)
        refuse(pattern.substr(i - 1, 2));
      out += c;
      if (i < pattern.size()) out += next;
      continue;
    }
    if (in_class) {
      if (c == '[') refuse("a set in a set");
      if (c == '&' && next == '&') refuse("&&");
      in_class = c != ']';
    } else if (c == '[') {
      in_class = true;
      out += c;
      // A bracket right at the start stands for itself.
      if (next == '^') out += pattern[++i];
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') out += pattern[++i];
      continue;
    } else if (c == '(' && next == '?') {
      for (std::size_t k = i + 2; k < pattern.size() && (std::isalpha(pattern[k]) != 0 || pattern[k] == '-');
           ++k)
        if (pattern[k] != 'i' && pattern[k] != 'x' && pattern[k] != '-') refuse(pattern.substr(i, k - i + 1));
    }
    out += c;
  }
  return out;
}

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

template <auto free_function>
struct Free {
  template <typename T>
  void operator()(T* pointer) const {
    free_function(pointer);
  }
};
template <typename T, auto free_function>
using Handle = std::unique_ptr<T, Free<free_function>>;

}  // namespace

struct Regex::Code {
  Handle<pcre2_code, pcre2_code_free> compiled;
  std::string pattern, field;
};

Regex::Regex(std::string_view pattern, const std::string& field) {
  if (pattern.size() > longest_pattern)
    fail("{} is a regular expression of {} bytes, expected at most {}", field, pattern.size(),
         longest_pattern);
  const std::string translated = translate(pattern, field);
  const Handle<pcre2_compile_context, pcre2_compile_context_free> context(
      pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE place = 0;
  auto code = std::make_shared<Code>();
  code->pattern = pattern;
  code->field = field;
  // In Ruby's syntax ^ and $ always mean lines. Anchored, because find_all tries one place at a time; at
  // match time that option would turn the compiled code off.
  code->compiled.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                     PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_ANCHORED, &error, &place,
                                     context.get()));
  if (!code->compiled)
    fail("{} is no valid regular expression: {}: '{}'", field, pcre2_message(error), pattern);
  pcre2_jit_compile(code->compiled.get(), PCRE2_JIT_COMPLETE);  // without it the interpreter runs
  code_ = std::move(code);
}

std::vector<Stretch> Regex::find_all(std::string_view text) const {
  using Clock = std::chrono::steady_clock;
  const Handle<pcre2_match_data, pcre2_match_data_free> data(
      pcre2_match_data_create_from_pattern(code_->compiled.get(), nullptr));
  const Handle<pcre2_match_context, pcre2_match_context_free> context(pcre2_match_context_create(nullptr));
  const Handle<pcre2_jit_stack, pcre2_jit_stack_free> stack(
      pcre2_jit_stack_create(jit_stack_start, jit_stack_most, nullptr));
  pcre2_set_match_limit(context.get(), match_limit);
  pcre2_jit_stack_assign(context.get(), nullptr, stack.get());

  // The match limit bounds one place, not their sum, so the whole has a limit too: 100 b a second is a
  // hundred times slower than any pattern in use.
  const auto deadline = Clock::now() + std::chrono::seconds(10 + text.size() / 100'000);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::vector<Stretch> found;
  std::size_t done = 0;  // end of the last match
  std::optional<std::size_t> last_end;
  std::size_t attempts = 0;
  for (std::size_t at = 0; at <= text.size();) {
    // One place at a time, so that the clock can be looked at between them.
    if (++attempts % 64 == 0 && Clock::now() > deadline)
      fail("{} has the regular expression '{}', which takes too long on a text of {} bytes", code_->field,
           code_->pattern, text.size());
    const int result = pcre2_match(code_->compiled.get(), subject, text.size(), at, PCRE2_NO_UTF_CHECK,
                                   data.get(), context.get());
    if (result < 0 && result != PCRE2_ERROR_NOMATCH)
      fail("{} has the regular expression '{}', which fails on this text: {}", code_->field, code_->pattern,
           pcre2_message(result));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data.get());
    // An empty match right behind the last match does not count.
    if (result < 0 || (span[1] <= at && last_end == at)) {
      at += at < text.size() ? character_bytes(text[at]) : 1;
      continue;
    }
    if (done < at) found.push_back({done, at, false});
    const std::size_t end = std::max(at, span[1]);
    found.push_back({at, end, true});
    last_end = done = at = end;
  }
  if (done < text.size()) found.push_back({done, text.size(), false});
  return found;
}

}  // namespace fathom
