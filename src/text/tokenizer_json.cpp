// tokenizer.json, read in one pass and written.
#include "base/error.h"
#include "base/file.h"
#include "text/tokenizer_spec.h"

namespace fathom {
namespace {

constexpr std::size_t largest_file = std::size_t{256} << 20;
constexpr std::size_t deepest = 64;
// Outside the vocabulary objects are small; Json finds their keys one by one.
constexpr std::size_t most_keys = 4096;

/// Takes the parser's events: builds a Json of everything but model.vocab and model.merges, which go into the
/// spec's own lists.
class SpecReader : public nlohmann::json_sax<Json> {
 public:
  explicit SpecReader(TokenizerSpec& spec) : spec_(spec) {}

  bool null() override { return scalar(nullptr); }
  bool boolean(bool value) override { return scalar(value); }
  bool number_integer(number_integer_t value) override { return scalar(value); }
  bool number_float(number_float_t value, const string_t&) override { return scalar(value); }
  bool binary(binary_t&) override { return scalar(nullptr); }  // JSON text has none

  bool number_unsigned(number_unsigned_t value) override {
    if (part_ != Part::vocabulary) return scalar(value);
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<Token>::max()))
      fail("{}: field 'model.vocab' gives '{}' the id {}, expected at most {}", spec_.source, piece_, value,
           std::numeric_limits<Token>::max());
    spec_.vocabulary.emplace_back(std::move(piece_), static_cast<Token>(value));
    return true;
  }

  bool string(string_t& value) override {
    if (part_ == Part::merges) {
      add_merge_line(value);
    } else if (part_ == Part::pair) {
      pair_.push_back(std::move(value));
    } else {
      return scalar(std::move(value));
    }
    return true;
  }

  bool key(string_t& value) override {
    (part_ == Part::vocabulary ? piece_ : names_.back()) = std::move(value);
    return true;
  }

  bool start_object(std::size_t) override {
    if (part_ != Part::rest) wrong("an object");
    if (at_model("vocab")) {
      part_ = Part::vocabulary;
      return true;
    }
    open(Json::object());
    return true;
  }

  bool end_object() override {
    if (part_ == Part::vocabulary) {
      part_ = Part::rest;
    } else {
      close();
    }
    return true;
  }

  bool start_array(std::size_t) override {
    if (part_ == Part::merges) {
      part_ = Part::pair;
      pair_.clear();
      return true;
    }
    if (part_ != Part::rest) wrong("a list");
    if (at_model("merges")) {
      part_ = Part::merges;
      return true;
    }
    if (at_model("vocab"))
      fail("{}: field 'model.vocab' is a list, expected an object: Fathom reads BPE tokenizers, not Unigram",
           spec_.source);
    open(Json::array());
    return true;
  }

  bool end_array() override {
    if (part_ == Part::pair) {
      if (pair_.size() != 2)
        fail("{}: field 'model.merges[{}]' has {} pieces, expected 2", spec_.source, spec_.merges.size(),
             pair_.size());
      spec_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
      part_ = Part::merges;
    } else if (part_ == Part::merges) {
      part_ = Part::rest;
    } else {
      close();
    }
    return true;
  }

  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    fail("{}: not valid JSON: {}", spec_.source, parse_problem(error));
  }

 private:
  enum class Part { rest, vocabulary, merges, pair };

  bool at_model(std::string_view name) const {
    return open_.size() == 2 && names_[0] == "model" && open_[1]->is_object() && names_[1] == name;
  }

  [[noreturn]] void wrong(const std::string& found) const {
    if (part_ == Part::vocabulary)
      fail("{}: field 'model.vocab' gives '{}' the id {}, expected a number", spec_.source, piece_, found);
    fail("{}: field 'model.merges[{}]' has {}, expected two strings", spec_.source, spec_.merges.size(),
         found);
  }

  /// "a b", as older files have it.
  void add_merge_line(const std::string& line) {
    if (line.starts_with("#version")) return;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos || line.find(' ', space + 1) != std::string::npos)
      fail("{}: field 'model.merges[{}]' is '{}', expected two pieces with a space between", spec_.source,
           spec_.merges.size(), line);
    spec_.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }

  bool scalar(Json value) {
    if (part_ != Part::rest) wrong(value.dump(-1, ' ', true, Json::error_handler_t::replace));
    put(std::move(value));
    return true;
  }

  Json* put(Json value) {
    if (open_.empty()) {
      spec_.rest = std::move(value);
      return &spec_.rest;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) return &parent.emplace_back(std::move(value));
    if (parent.size() >= most_keys)
      fail("{}: field '{}' has more than {} keys", spec_.source, names_.front(), most_keys);
    return &(parent[names_.back()] = std::move(value));
  }

  void open(Json value) {
    if (open_.size() == deepest) fail("{}: field '{}' is nested too deeply", spec_.source, names_.front());
    open_.push_back(put(std::move(value)));
    names_.emplace_back();
  }

  void close() {
    open_.pop_back();
    names_.pop_back();
  }

  TokenizerSpec& spec_;
  Part part_ = Part::rest;
  std::vector<Json*> open_;  // objects and lists around the parser's place; stable, as only the last grows
  std::vector<std::string> names_;  // the current key of each
  std::string piece_;
  std::vector<std::string> pair_;
};

}  // namespace

Token read_token_id(const Json& value, const std::string& field) {
  constexpr auto most = std::numeric_limits<Token>::max();
  if (!value.is_number_integer() || value < 0 || value > most)
    fail("{} has {}, expected token ids from 0 to {}", field,
         value.dump(-1, ' ', true, Json::error_handler_t::replace), most);
  return value.get<Token>();
}

TokenizerSpec read_tokenizer_json(const std::filesystem::path& file) {
  TokenizerSpec spec;
  spec.source = file.string();
  const std::string text = read_file(file, largest_file);
  SpecReader reader(spec);
  Json::sax_parse(text, &reader);
  return spec;
}

std::string tokenizer_json(const TokenizerSpec& spec) {
  const auto quoted = [](const std::string& text) { return Json(text).dump(); };
  std::string out = "{";
  for (const auto& [key, value] : spec.rest.items()) {
    out += out.size() == 1 ? "\n " : ",\n ";
    out += quoted(key) + ": ";
    if (key != "model") {
      out += value.dump();
      continue;
    }
    out += "{";
    for (const auto& [name, option] : value.items()) out += quoted(name) + ": " + option.dump() + ", ";
    out += "\"vocab\": {";
    for (std::size_t i = 0; i < spec.vocabulary.size(); ++i) {
      const auto& [piece, id] = spec.vocabulary[i];
      out += fmt::format("{}\n  {}: {}", i == 0 ? "" : ",", quoted(piece), id);
    }
    out += "},\n \"merges\": [";
    for (std::size_t i = 0; i < spec.merges.size(); ++i) {
      const auto& [left, right] = spec.merges[i];
      out += fmt::format("{}\n  [{}, {}]", i == 0 ? "" : ",", quoted(left), quoted(right));
    }
    out += "]}";
  }
  return out + "\n}\n";
}

}  // namespace fathom
