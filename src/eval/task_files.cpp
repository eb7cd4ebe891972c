// Reads the sets: every row becomes the queries that lm-eval would send for it.
#include <algorithm>
#include <map>
#include <string_view>

#include "base/error.h"
#include "base/file.h"
#include "eval/tasks.h"
#include "text/jinja/text.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t most_choices = 64;

/// Calls take(row) for each line of a JSON-lines file, the first `limit` of them (0: all).
template <typename Take>
void for_each_row(const fs::path& file, std::int64_t limit, const Take& take) {
  std::int64_t rows = 0;
  for_each_json_line(read_file(file), file.string(), [&](const JsonObject& row) {
    take(row);
    return ++rows != limit;
  });
  if (rows == 0) fail("{}: no examples in it, expected one JSON object a line", file.string());
}

std::vector<std::string> strings_of(const JsonObject& row, const std::string& key) {
  std::vector<std::string> strings;
  for (const Json& value : row.array(key, most_choices)) {
    if (!value.is_string()) fail("{} holds {}, expected strings", row.field(key), value.type_name());
    strings.push_back(value.get<std::string>());
  }
  if (strings.size() < 2) fail("{} has {} entries, expected at least 2", row.field(key), strings.size());
  return strings;
}

std::int64_t gold_of(const JsonObject& row, std::size_t choices) {
  return row.integer("gold", 0, static_cast<std::int64_t>(choices) - 1);
}

/// query, choices, gold: each choice after the query and a space.
Example choice_example(const JsonObject& row) {
  Example example;
  const auto choices = strings_of(row, "choices");
  auto& query = example.queries.emplace_back(Query{row.string("query"), {}});
  for (const auto& choice : choices) {
    query.continuations.push_back(" " + choice);
    example.lengths.push_back(
        {static_cast<std::int64_t>(jinja::count_characters(choice)), std::ssize(choice)});
  }
  example.gold = gold_of(row, choices.size());
  return example;
}

/// contexts, continuation, gold: the same words after each context ("partial scoring", Trinh and Le 2018).
Example context_example(const JsonObject& row) {
  Example example;
  for (const auto& context : strings_of(row, "contexts"))
    example.queries.push_back({context, {" " + row.string("continuation")}});
  example.gold = gold_of(row, example.queries.size());
  return example;
}

Example last_word_example(const JsonObject& row) {
  return {{{row.string("context"), {" " + row.string("continuation")}}}, {}, 0};
}

constexpr std::string_view letters = "ABCD";

std::string mmlu_question(const JsonObject& row) {
  const auto choices = strings_of(row, "choices");
  if (choices.size() != letters.size())
    fail("{} has {} entries, expected {}", row.field("choices"), choices.size(), letters.size());
  const std::string question = row.string("question");
  std::string text(jinja::strip(question, jinja::Side::both));
  for (std::size_t i = 0; i < choices.size(); ++i) text += fmt::format("\n{}. {}", letters[i], choices[i]);
  return text + "\nAnswer:";
}

/// Five solved questions of the same subject come first; the answer is a letter.
std::vector<Example> mmlu_examples(const fs::path& data, std::int64_t limit) {
  std::map<std::string, std::string> shots;
  for_each_row(data / "mmlu_dev.jsonl", 0, [&](const JsonObject& row) {
    shots[row.string("subject")] +=
        fmt::format("{} {}\n\n", mmlu_question(row), letters[static_cast<std::size_t>(gold_of(row, 4))]);
  });
  std::vector<Example> examples;
  for_each_row(data / "mmlu_test.jsonl", limit, [&](const JsonObject& row) {
    const std::string subject = row.string("subject");
    const auto shot = shots.find(subject);
    if (shot == shots.end())
      fail("{} is \"{}\", of which mmlu_dev.jsonl has no examples", row.field("subject"), subject);
    std::string title = subject;
    std::ranges::replace(title, '_', ' ');
    const std::string context =
        fmt::format("The following are multiple choice questions (with answers) about {}.\n\n{}{}", title,
                    shot->second, mmlu_question(row));
    examples.push_back({{{context, {" A", " B", " C", " D"}}}, {}, gold_of(row, 4)});
  });
  return examples;
}

using RowReader = Example (*)(const JsonObject&);

/// The sets that are one file, and how a row is read.
const std::vector<std::pair<std::string, RowReader>>& plain_tasks() {
  static const std::vector<std::pair<std::string, RowReader>> tasks = {
      {"hellaswag", choice_example},     {"arc_easy", choice_example},
      {"arc_challenge", choice_example}, {"piqa", choice_example},
      {"openbookqa", choice_example},    {"boolq", choice_example},
      {"winogrande", context_example},   {"lambada_openai", last_word_example}};
  return tasks;
}

}  // namespace

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const auto& [name, reader] : plain_tasks()) names.push_back(name);
  names.emplace_back("mmlu");
  return names;
}

std::vector<Example> read_task(const std::string& name, const fs::path& data, std::int64_t limit) {
  if (name == "mmlu") return mmlu_examples(data, limit);
  const auto task = std::ranges::find(plain_tasks(), name, &std::pair<std::string, RowReader>::first);
  if (task == plain_tasks().end())
    fail_usage("there is no task \"{}\"; there are {}", name, fmt::join(task_names(), ", "));
  std::vector<Example> examples;
  for_each_row(data / (name + ".jsonl"), limit,
               [&](const JsonObject& row) { examples.push_back(task->second(row)); });
  return examples;
}

}  // namespace fathom
