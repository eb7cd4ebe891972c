#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "base/error.h"

namespace fathom {
namespace {

using ::testing::HasSubstr;

/// Rendered text, or nothing where it failed; `message` gets the error.
std::optional<std::string> render(const std::string& source, const Json& context = Json::object(),
                                  std::string* message = nullptr) {
  try {
    return ChatTemplate(source).render(context);
  } catch (const Error& e) {
    if (message != nullptr) *message = e.what();
    return {};
  }
}

std::string error_of(const std::string& source, const Json& context = Json::object()) {
  std::string message;
  EXPECT_FALSE(render(source, context, &message)) << source;
  return message;
}

std::string repeated(const std::string& part, int times) {
  std::string text;
  for (int i = 0; i < times; i++) text += part;
  return text;
}

class Oracle : public ::testing::TestWithParam<const char*> {};

// tests/oracle/make_templates.py: what jinja2 gives, as transformers sets it up.
TEST_P(Oracle, RendersAsJinja2) {
  const Json cases = read_json(std::string(FATHOM_TEST_DATA) + "/templates/" + GetParam() + ".json");
  ASSERT_GT(cases.size(), 50U);
  for (const Json& entry : cases) {
    const auto source = entry["template"].get<std::string>();
    std::string message;
    const auto text = render(source, entry["context"], &message);
    if (entry["expected"].is_null()) {
      EXPECT_FALSE(text) << source << "\ngave " << *text;
      EXPECT_THAT(message, ::testing::StartsWith("chat template, line ")) << source;
    } else {
      ASSERT_TRUE(text) << source << "\n" << message;
      EXPECT_EQ(*text, entry["expected"].get<std::string>()) << source;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(ChatTemplate, Oracle, ::testing::Values("chats", "language", "errors"),
                         [](const auto& group) { return std::string(group.param); });

TEST(ChatTemplate, ErrorsNameTheLineAndWhatIsNotSupported) {
  EXPECT_EQ(error_of("a\n{% include 'x' %}"), "chat template, line 2: the tag 'include' is not supported");
  EXPECT_EQ(error_of("\n\n{{ 'a' | urlize }}"),
            "chat template, line 3: the filter 'urlize' is not supported");
  EXPECT_EQ(error_of("{{ x.y }}"),
            "chat template, line 1: 'x' is undefined (its attribute 'y' is asked for)");
  EXPECT_EQ(error_of("\n{{ raise_exception('roles must alternate') }}"),
            "chat template, line 2: roles must alternate");
  EXPECT_THAT(error_of("{% for x in y recursive %}{% endfor %}"), HasSubstr("recursive"));
  EXPECT_THAT(error_of("{{ 9223372036854775807 + 1 }}"), HasSubstr("64 bits"));
  EXPECT_THAT(error_of("{{ messages.append(1) }}", {{"messages", Json::array()}}), HasSubstr("may not"));
}

TEST(ChatTemplate, TextThatIsNotUtf8IsReplaced) {
  EXPECT_EQ(render("a\xff{{ x }}{{ x[-1] }}", {{"x", "b\xfe"}}), "a\uFFFDb\uFFFD\uFFFD");
}

// What a model's file holds is not trusted: whatever it is, an Error comes soon, and the stack holds.
TEST(ChatTemplate, HostileTemplatesEndInAnError) {
  const std::string hostile[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9999) %}{% endfor %}{% endfor "
      "%}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(x) %}{{ f(x) + g(x) }}{% endmacro %}{% macro g(x) %}{{ f(x) }}{% endmacro %}{{ g(1) }}",
      "{% set ns = namespace(s='xxxxxxxxxxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% "
      "endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l "
      "}}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ "
      "ns.l }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(90) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ "
      "ns.l | tojson }}",
      "{% set a = namespace(l=[1], m=[1]) %}{% for i in range(90) %}{% set a.l = [a.l, a.l] %}{% set a.m = "
      "[a.m, a.m] %}"
      "{% endfor %}{{ a.l == a.m }}",
      "{% set ns = namespace(f=1) %}{% for i in range(99999) %}{% set ns.f = [ns.f].index %}{% endfor %}{{ "
      "ns.f }}",
      "{{ 'x' * 99999999999 }}",
      "{{ [1] * 9999999999999 }}",
      "{{ 2 ** 99999999999 }}",
      "{{ '%999999999d' % 1 }}",
      "{{ '%.999999999f' % 1.5 }}",
      "{{ 'a' | indent(999999999) }}",
      "{{ [1] | tojson(indent=999999999) }}",
      "{{ range(9223372036854775807) | length }}",
      "{{ range(-9223372036854775807, 9223372036854775807, 2) | length }}",
      "{{ ('a' * 99999).replace('', 'b' * 99999) }}",
      "{{ (('a' * 9999) ~ 'b') in ('a' * 99999999) }}",
      "{% for i in range(99999) %}{{ ('a' * 9999).split('a' * 5000 ~ 'b') }}{% endfor %}",
      "{{ strftime_now('%c' * 99999) }}",
      repeated("{% if 1 %}", 100'000),
      repeated("{{ (", 1) + repeated("(", 100'000),
      "{{ " + repeated("[", 100'000),
      "{{ " + repeated("not ", 100'000) + "1 }}",
      "{{ " + repeated("-", 100'000) + "1 }}",
      "{{ 1" + repeated(" + 1", 100'000) + " }}",
      "{{ x" + repeated(".x", 100'000) + " }}",
      "{{ x" + repeated("|trim", 100'000) + " }}",
      "{{ 1" + repeated(" if 1 else 1", 100'000) + " }}",
      "{% set " + repeated("(", 100'000),
      std::string(2 << 20, 'x'),
  };
  for (const std::string& source : hostile) {
    const auto start = std::chrono::steady_clock::now();
    EXPECT_FALSE(render(source)) << source.substr(0, 200);
    // Far above what it takes; without limits some of them would run for ages.
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60)) << source.substr(0, 200);
  }
}

TEST(ChatTemplate, ValuesThatReferToThemselvesAreFreed) {  // seen by the address sanitizer
  EXPECT_EQ(render("{% set a = namespace() %}{% set a.a = a %}{% set a.l = [a] %}ok"), "ok");
  EXPECT_EQ(
      render("{% set a = namespace() %}{% macro f() %}{% set a.f = f %}{% endmacro %}{{ f() }}{{ a.f() }}ok"),
      "ok");
  EXPECT_EQ(
      render(
          "{% set a = namespace() %}{% for i in [1] %}{% macro f() %}{{ i }}{% endmacro %}{% set a.f = f %}"
          "{% set a.loop = loop %}{% endfor %}{{ a.f() }}ok"),
      "ok");
}

TEST(ChatTemplate, DamagedTemplatesNeverCrash) {
  const Json cases = read_json(std::string(FATHOM_TEST_DATA) + "/templates/chats.json");
  std::size_t rendered = 0;
  for (std::size_t i = 0; i < cases.size(); i += 5) {
    const auto source = cases[i]["template"].get<std::string>();
    for (std::size_t cut = 0; cut < source.size(); cut += 7) {
      rendered += render(source.substr(0, cut), cases[i]["context"]).has_value() ? 1 : 0;
      rendered +=
          render(source.substr(0, cut) + source.substr(cut + 1), cases[i]["context"]).has_value() ? 1 : 0;
    }
  }
  EXPECT_GT(rendered, 0U);
}

}  // namespace
}  // namespace fathom
