#include "report/html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

namespace fathom {
namespace {

constexpr std::string_view style = R"(
:root { color-scheme: light dark; --ground: #ffffff; --card: #f6f7f9; --text: #1c2330; --soft: #5b6472;
  --rule: #dde1e7; --accent: #2a6f97; --s0: #2a6f97; --s1: #e07a2f; --s2: #3c9a5f; --s3: #b5485d; --s4: #7b5ea7;
  --s5: #8a7a3b; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12161c; --card: #1b2129; --text: #e4e8ee; --soft: #9aa5b4; --rule: #313a46; --accent: #6fb6dd;
    --s0: #6fb6dd; --s1: #f2a365; --s2: #74c995; --s3: #ec8fa1; --s4: #b9a1e0; --s5: #cdbb74; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 54rem; background: var(--ground); color: var(--text);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0 0 .5rem; font-size: 2rem; line-height: 1.2; }
h2 { margin: 3rem 0 1rem; padding-top: 1.25rem; border-top: 1px solid var(--rule); font-size: 1.3rem; }
p { margin: .75rem 0; }
.lead { margin-bottom: 2rem; color: var(--soft); font-size: 1.1rem; }
.scroll { overflow-x: auto; margin: 1.25rem 0; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem; border-bottom: 1px solid var(--rule); text-align: left; white-space: nowrap; }
thead th { border-bottom: 2px solid var(--soft); color: var(--soft); font-size: .9rem; }
tbody th { font-weight: normal; white-space: pre; }
tbody tr:hover { background: var(--card); }
.number { text-align: right; }
figure { margin: 1.5rem 0; padding: 1rem; border-radius: .5rem; background: var(--card); break-inside: avoid; }
figcaption { margin-top: .5rem; color: var(--soft); font-size: .9rem; }
svg { display: block; width: 100%; height: auto; font-family: inherit; }
svg .title { fill: var(--text); font-size: 15px; font-weight: 600; }
svg .label { fill: var(--soft); font-size: 12.5px; }
svg .tick { fill: var(--soft); font-size: 12px; }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .faint { opacity: .4; } svg .line.faint { stroke-width: 1; }
svg .cell { stroke: var(--card); stroke-width: .5; }
svg .dot { fill: #ffffff; pointer-events: none; }
svg .key { fill: #ffffff; stroke: var(--soft); }
svg .fill:hover, svg .cell:hover { opacity: .75; }
.fill.s0 { fill: var(--s0); } .fill.s1 { fill: var(--s1); } .fill.s2 { fill: var(--s2); }
.fill.s3 { fill: var(--s3); } .fill.s4 { fill: var(--s4); } .fill.s5 { fill: var(--s5); }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); } .line.s2 { stroke: var(--s2); }
.line.s3 { stroke: var(--s3); } .line.s4 { stroke: var(--s4); } .line.s5 { stroke: var(--s5); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.columns section { padding: .75rem 1rem; border-radius: .5rem; background: var(--card); break-inside: avoid; }
.columns h3 { margin: 0 0 .4rem; color: var(--accent); font-size: .85rem; }
pre { margin: 0; font: .85rem/1.5 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre-wrap;
  overflow-wrap: anywhere; }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } .scroll { overflow: visible; } }
)";

/// "12", "-3.5%", "98.0 MB", "134.5M", "1e+07": digits first, and at most three letters (a unit).
bool is_number(const std::string& cell) {
  const std::size_t first = cell.find_first_not_of("+-");
  if (first == std::string::npos || first > 1 || !std::isdigit(static_cast<unsigned char>(cell[first])))
    return false;
  return std::ranges::count_if(cell, [](unsigned char c) { return std::isalpha(c) != 0; }) <= 3;
}

void append_row(std::string& html, const std::vector<std::string>& cells, std::size_t columns,
                const std::vector<bool>& numeric, bool header) {
  html += "<tr>";
  for (std::size_t c = 0; c < columns; ++c) {
    const std::string cell = c < cells.size() ? cells[c] : "";
    const bool right = header ? numeric[c] : is_number(cell);
    const bool names = header || c == 0;
    html += fmt::format("<{}{}{}>{}</{}>", names ? "th" : "td",
                        !names   ? ""
                        : header ? " scope=\"col\""
                                 : " scope=\"row\"",
                        right ? " class=\"number\"" : "", escape_html(cell), names ? "th" : "td");
  }
  html += "</tr>\n";
}

}  // namespace

std::string escape_html(const std::string& text) {
  std::string escaped;
  escaped.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      case '\n':
      case '\t':
        escaped += c;
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
          escaped += "\xef\xbf\xbd";
        else
          escaped += c;
    }
  }
  return escaped;
}

HtmlPage::HtmlPage(std::string title, std::string lead) : title_(std::move(title)), lead_(std::move(lead)) {}

void HtmlPage::heading(const std::string& text) { body_ += fmt::format("<h2>{}</h2>\n", escape_html(text)); }

void HtmlPage::paragraph(const std::string& text) { body_ += fmt::format("<p>{}</p>\n", escape_html(text)); }

void HtmlPage::picture(const std::string& svg, const std::string& caption) {
  body_ += fmt::format("<figure>\n{}<figcaption>{}</figcaption>\n</figure>\n", svg, escape_html(caption));
}

void HtmlPage::table(const std::vector<std::vector<std::string>>& rows) {
  if (rows.empty()) return;
  std::size_t columns = 0;
  for (const auto& row : rows) columns = std::max(columns, row.size());
  std::vector<bool> numeric(columns);
  for (std::size_t r = 1; r < rows.size(); ++r)
    for (std::size_t c = 0; c < rows[r].size(); ++c) numeric[c] = numeric[c] || is_number(rows[r][c]);
  body_ += "<div class=\"scroll\"><table>\n<thead>\n";
  append_row(body_, rows[0], columns, numeric, true);
  body_ += "</thead>\n<tbody>\n";
  for (std::size_t r = 1; r < rows.size(); ++r) append_row(body_, rows[r], columns, numeric, false);
  body_ += "</tbody>\n</table></div>\n";
}

void HtmlPage::columns(const std::vector<std::pair<std::string, std::string>>& texts) {
  body_ += "<div class=\"columns\">\n";
  for (const auto& [title, text] : texts) {
    body_ +=
        fmt::format("<section><h3>{}</h3>\n<pre>{}</pre></section>\n", escape_html(title), escape_html(text));
  }
  body_ += "</div>\n";
}

std::string HtmlPage::str() const {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\" />\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\" />\n"
      "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<main>\n<h1>{0}</h1>\n<p "
      "class=\"lead\">{2}</p>\n"
      "{3}</main>\n</body>\n</html>\n",
      escape_html(title_), style, escape_html(lead_), body_);
}

}  // namespace fathom
