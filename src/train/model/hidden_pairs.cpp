#include "train/model/hidden_pairs.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "base/error.h"
#include "base/json.h"

namespace fathom {
namespace {

/// The teacher's visits that the student still has, by the last of its prunings that account for the
/// difference in depth; empty if none do.
std::vector<std::int64_t> kept_visits(const Checkpoint& student, std::int64_t depth) {
  std::vector<std::vector<std::int64_t>> prunings;
  std::int64_t missing = depth - student.plan.depth();
  const Json none = Json::array();
  const Json& account = student.provenance.is_array() ? student.provenance : none;
  for (auto entry = account.rbegin(); entry != account.rend() && missing > 0; ++entry) {
    const JsonObject own(*entry, student.source.string(), "fathom.provenance");
    if (own.string_or("command", "") != "prune") continue;
    prunings.emplace_back();
    const JsonObject options = own.object("options");
    for (const Json& layer : options.array("layers")) {
      if (!layer.is_number_integer())
        fail("{} is {}, expected layers", options.field("layers"), layer.dump());
      prunings.back().push_back(layer.get<std::int64_t>());
    }
    missing -= std::ssize(prunings.back());
  }
  if (missing != 0) return {};
  std::vector<std::int64_t> kept(static_cast<std::size_t>(depth));
  std::iota(kept.begin(), kept.end(), 0);
  for (auto dropped = prunings.rbegin(); dropped != prunings.rend(); ++dropped) {
    std::vector<std::int64_t> left;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      if (std::ranges::find(*dropped, static_cast<std::int64_t>(i)) == dropped->end())
        left.push_back(kept[i]);
    }
    kept = left;
  }
  return kept;
}

std::vector<HiddenPair> matching(const Checkpoint& student, const Checkpoint& teacher) {
  const std::int64_t depth = teacher.plan.depth();
  std::vector<std::int64_t> kept = kept_visits(student, depth);
  if (std::ssize(kept) != student.plan.depth()) {
    fail_usage(
        "{}: how its {} visits match the teacher's {} is not in its account; say it with --hidden-at, such "
        "as --hidden-at 11:15 for what the student has after visit 11 and the teacher after visit 15",
        student.source.string(), student.plan.depth(), depth);
  }
  const bool same_depth = std::ssize(kept) == depth;
  kept.push_back(depth);
  std::vector<HiddenPair> pairs;
  for (std::int64_t visit = 0; visit < student.plan.depth(); ++visit) {
    const std::int64_t own = kept[static_cast<std::size_t>(visit)],
                       next = kept[static_cast<std::size_t>(visit + 1)];
    if (same_depth || next != own + 1) pairs.push_back({visit, next - 1});
  }
  if (pairs.empty()) {
    fail_usage("{}: only its first layers were dropped, so no hidden state of it leads to the teacher's",
               student.source.string());
  }
  return pairs;
}

/// A visit of `depth`, which takes up all of `text`.
std::int64_t visit_number(std::string_view text, std::int64_t depth, const std::string& all) {
  std::int64_t visit = -1;
  const auto [end, status] = std::from_chars(text.data(), text.data() + text.size(), visit);
  if (status != std::errc() || end != text.data() + text.size() || visit < 0 || visit >= depth) {
    fail_usage(
        "--hidden-at {}: '{}' is no visit; expected pairs STUDENT:TEACHER such as 11:15, of 0 to {} here",
        all, text, depth - 1);
  }
  return visit;
}

}  // namespace

std::vector<HiddenPair> parse_hidden_pairs(const std::string& text, const Checkpoint& student,
                                           const Checkpoint& teacher) {
  if (text == "auto") return matching(student, teacher);
  std::vector<HiddenPair> pairs;
  std::string_view rest = text;
  while (true) {
    const std::size_t comma = rest.find(',');
    const std::string_view pair = rest.substr(0, comma);
    const std::size_t colon = std::min(pair.find(':'), pair.size());
    pairs.push_back(
        {visit_number(pair.substr(0, colon), student.plan.depth(), text),
         visit_number(pair.substr(std::min(colon + 1, pair.size())), teacher.plan.depth(), text)});
    if (comma == std::string_view::npos) return pairs;
    rest.remove_prefix(comma + 1);
  }
}

}  // namespace fathom
