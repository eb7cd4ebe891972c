#include "report/html.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace fathom {
namespace {

using testing::HasSubstr;
using testing::Not;

/// The first thing wrong with the markup ("" if none): tags that do not nest, attributes without quotes,
/// stray brackets or ampersands. The pages are written so that a strict XML reader takes them too.
std::string fault_in(const std::string& html) {
  std::vector<std::string> open;
  for (std::size_t i = 0; i < html.size(); ++i) {
    if (html[i] == '&') {
      const auto end = html.find(';', i);
      if (end == std::string::npos || end - i > 6) return "bare & at " + html.substr(i, 20);
    }
    if (html[i] == '>') return "bare > at " + html.substr(i, 20);
    if (html[i] != '<') continue;
    const auto end = html.find('>', i);
    if (end == std::string::npos) return "tag without an end: " + html.substr(i, 20);
    const std::string tag = html.substr(i + 1, end - i - 1);
    const std::string name = tag.substr(0, tag.find(' '));
    i = end;
    if (tag.find('<') != std::string::npos) return "bare < in " + tag;
    if (std::ranges::count(tag, '"') % 2 != 0) return "odd quotes in " + tag;
    if (tag.starts_with("!DOCTYPE") || tag.ends_with("/")) continue;
    if (tag.starts_with("/")) {
      if (open.empty() || open.back() != name.substr(1)) return "unexpected </" + name.substr(1) + ">";
      open.pop_back();
    } else {
      open.push_back(name);
    }
    // Style sheets are not markup.
    if (name == "style") i = html.find("</style>", i) - 1;
  }
  return open.empty() ? "" : "<" + open.back() + "> is not closed";
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

const double nan = std::numeric_limits<double>::quiet_NaN();
const double infinity = std::numeric_limits<double>::infinity();

TEST(Html, EscapesMarkupAndControlCharacters) {
  EXPECT_EQ(escape_html("<a href=\"x\">&'\n\tä"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\n\tä");
  EXPECT_EQ(escape_html(std::string("a\0b\x1b", 4)),
            "a\xef\xbf\xbd"
            "b\xef\xbf\xbd");
}

TEST(Html, PageIsWellFormedAndSelfContainedWhateverItsTexts) {
  const std::string hostile = "</pre><script>alert(1)</script>&\" http://example.org";
  HtmlPage page(hostile, hostile);
  page.heading(hostile);
  page.paragraph(hostile);
  page.picture(svg_lines(hostile, hostile, hostile, {{hostile, {0, 1}, {1, 2}}, {hostile, {0, 1}, {3, 2}}}),
               hostile);
  page.picture(svg_bars(hostile, hostile, hostile, {{hostile, {0, 1}, {1, 2}}}), hostile);
  page.picture(svg_heat_map(hostile, hostile, hostile, {{1, 2}, {3}}), hostile);
  page.table({{hostile, hostile}, {hostile, "1"}});
  page.columns({{hostile, hostile}});
  const std::string html = page.str();
  EXPECT_EQ(fault_in(html), "");
  EXPECT_THAT(html, Not(HasSubstr("<script")));
  for (const char* fetch : {"src=", "href=", "url(", "@import"}) EXPECT_THAT(html, Not(HasSubstr(fetch)));
}

TEST(Html, TableHasHeaderRowNamesAndNumbersAtTheRight) {
  HtmlPage page("t", "");
  page.table({{"", "original", "cut"},
              {"parameters", "134.5M", "-98.0 MB"},
              {"plan", "30 layers", "12"},
              {"short"}});
  const std::string html = page.str();
  EXPECT_EQ(fault_in(html), "");
  EXPECT_THAT(html, HasSubstr("<th scope=\"col\" class=\"number\">original</th>"));
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">parameters</th><td class=\"number\">134.5M</td>"
                              "<td class=\"number\">-98.0 MB</td>"));
  EXPECT_THAT(html, HasSubstr("<td>30 layers</td><td class=\"number\">12</td>"));
  EXPECT_THAT(html, HasSubstr("<th scope=\"row\">short</th><td></td><td></td>"));
}

TEST(HeatMap, DrawsOneCellAValueWithTooltipAndMarksTheSmallestOfARow) {
  const auto svg = svg_heat_map("Distance", "start", "length", {{0.4, 0.2, nan}, {0.6, 0.5}});
  EXPECT_EQ(fault_in(svg), "");
  EXPECT_EQ(count(svg, "class=\"cell\""), 4U);
  EXPECT_EQ(count(svg, "class=\"dot\""), 2U);
  EXPECT_THAT(svg, HasSubstr("<title>start 1, length 1: 0.2</title>"));
  EXPECT_THAT(svg, HasSubstr("<title>start 0, length 2: 0.6</title>"));
  EXPECT_THAT(
      svg, HasSubstr("fill=\"#440154\" class=\"cell\"><title>start 1, length 1"));  // smallest: viridis' dark
  EXPECT_THAT(
      svg, HasSubstr("fill=\"#fde725\" class=\"cell\"><title>start 0, length 2"));  // largest: its bright end
}

TEST(Lines, ScaleIsLogarithmicWhereTheRangeIsWide) {
  const auto middle = [](const std::string& svg) {
    const auto at = svg.find("cy=\"", svg.find("cy=\"") + 1) + 4;
    return std::stod(svg.substr(at));
  };
  // Top 52 and bottom 270 of the plot: 10 is halfway between 1 and 1000^(2/3) only on a logarithmic axis.
  const std::vector<Series> wide = {{"loss", {0, 1, 2}, {1, 10, 1000}}};
  EXPECT_NEAR(middle(svg_lines("t", "x", "y", wide)), 270 - 218 / 3.0, 0.1);
  EXPECT_NEAR(middle(svg_lines("t", "x", "y", wide, Scale::linear)), 270 - 218 * 9 / 999.0, 0.1);
  const std::vector<Series> narrow = {{"loss", {0, 1, 2}, {1, 10, 19}}};
  EXPECT_NEAR(middle(svg_lines("t", "x", "y", narrow)), 270 - 109, 0.1);
}

TEST(Lines, BreaksWhereAValueIsMissing) {
  const auto svg = svg_lines("t", "x", "y", {{"a", {0, 1, 2, 3, 4}, {1, 2, nan, 3, 4}}});
  const auto path = svg.substr(svg.find("d=\""), svg.find("class=\"line") - svg.find("d=\""));
  EXPECT_EQ(count(path, "M"), 2U);
  EXPECT_EQ(count(path, "L"), 2U);
}

TEST(NoisyLines, AreFaintUnderTheirRunningMean) {
  Series loss{"prune", {}, {}};
  for (int i = 0; i < 120; ++i) {
    loss.x.push_back(i);
    loss.y.push_back(i % 2 == 0 ? 1 : 3);  // five of them: 9/5 and 11/5 in turn
  }
  loss.y[60] = nan;
  const auto svg = svg_noisy_lines("t", "tokens", "loss", {loss});
  EXPECT_EQ(fault_in(svg), "");
  EXPECT_THAT(svg, HasSubstr(">prune: mean of 5 steps</text>"));
  EXPECT_THAT(svg, HasSubstr(">single steps</text>"));
  EXPECT_EQ(count(svg, "<path"), 2U);
  const auto mean = svg.substr(svg.find("<path", svg.find("line faint s0")));
  EXPECT_EQ(count(mean.substr(0, mean.find('"', 10)), "M"), 2U);  // broken where the value is missing
  // From 1 to 3 is from 270 to 52 pixels: the means lie at 182.8 and 139.2.
  EXPECT_THAT(mean, HasSubstr(" 182.80L"));
  EXPECT_THAT(mean, HasSubstr(" 139.20L"));
  loss.x.resize(50);
  EXPECT_THAT(svg_noisy_lines("t", "tokens", "loss", {loss}), Not(HasSubstr("faint")));
}

TEST(Bars, NegativeValuesHangFromZeroAndSeveralSeriesHaveALegend) {
  const auto svg = svg_bars("t", "layer", "y", {{"a", {0, 1}, {1, -1}}, {"b", {0, 1}, {nan, 2}}});
  EXPECT_EQ(fault_in(svg), "");
  EXPECT_EQ(count(svg, "<title>a, layer"), 2U);
  EXPECT_EQ(count(svg, "<title>b, layer"), 1U);
  EXPECT_THAT(svg, HasSubstr(">a</text>"));
  EXPECT_THAT(svg, Not(HasSubstr("height=\"-")));
}

TEST(Pictures, NothingOddBreaksThem) {
  const std::vector<std::vector<double>> values = {{},
                                                   {nan},
                                                   {infinity, -infinity},
                                                   {5},
                                                   {0, 0, 0},
                                                   {1e300, -1e300},
                                                   {1e-300, 2e-300, 1e300},
                                                   {1e-320, 1e-310},
                                                   {-1e308, 1e308}};
  for (const auto& y : values) {
    std::vector<double> x(y.size());
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<double>(i);
    for (const std::vector<Series>& series :
         {std::vector<Series>{{"a", x, y}}, {}, {{"a", x, y}, {"b", y, y}}, {{"a", y, {}}}}) {
      for (const auto scale : {Scale::automatic, Scale::linear, Scale::logarithmic}) {
        const auto svg = svg_lines("t", "x", "y", series, scale);
        EXPECT_EQ(fault_in(svg), "");
        EXPECT_THAT(svg, Not(HasSubstr("nan")));
        EXPECT_THAT(svg, Not(HasSubstr("inf")));
      }
      const auto bars = svg_bars("t", "x", "y", series);
      EXPECT_EQ(fault_in(bars), "");
      EXPECT_THAT(bars, Not(HasSubstr("nan")));
    }
    const auto map = svg_heat_map("t", "x", "y", {y, {}, y});
    EXPECT_EQ(fault_in(map), "");
    EXPECT_THAT(map, Not(HasSubstr("nan")));
  }
  EXPECT_THAT(svg_heat_map("t", "x", "y", {}), HasSubstr("no values"));
  EXPECT_THAT(svg_lines("t", "x", "y", {}), HasSubstr("no values"));
  EXPECT_THAT(svg_bars("t", "x", "y", {{"a", {0}, {nan}}}), HasSubstr("no values"));
}

}  // namespace
}  // namespace fathom
