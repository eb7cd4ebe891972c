#include "corpus/token_store.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/fingerprint.h"
#include "base/json.h"
#include "corpus/tokenise.h"

namespace fathom {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t most_values = std::int64_t{1} << 56;

/// Tokens and documents in memory, and their digest.
struct Gathered {
  std::vector<Token> tokens;
  std::vector<DocumentStart> documents;
  Fingerprint digest;
};

/// Documents whose starts count from the batch's first token, moved to where the batch stands in the store.
std::vector<DocumentStart> moved(std::span<const DocumentStart> documents, std::int64_t offset) {
  std::vector<DocumentStart> result(documents.begin(), documents.end());
  for (DocumentStart& document : result) document.token += offset;
  return result;
}

void add(Fingerprint& digest, std::span<const Token> tokens, std::span<const DocumentStart> documents) {
  digest.add(std::as_bytes(tokens));
  digest.add(std::as_bytes(documents));
}

TokenStore stored(const std::shared_ptr<Gathered>& gathered, std::vector<std::string> files) {
  return {.tokens = gathered->tokens,
          .documents = gathered->documents,
          .files = std::move(files),
          .digest = gathered->digest.hex(),
          .owner = gathered};
}

std::vector<std::string> names(const TextInput& input) {
  std::vector<std::string> result;
  for (const fs::path& file : input.files) result.push_back(file.string());
  return result;
}

std::string digest(const Tokenizer& tokenizer) {
  Fingerprint result;
  for (Token id = 0; id < tokenizer.size(); ++id) result.add(tokenizer.piece(id));
  result.add(tokenizer.chat_template());
  const std::vector<Token> sample = tokenizer.encode("The fox's 12 jumps\n\n  über <b>5,000</b> dogs;\tend.");
  result.add(std::as_bytes(std::span(sample)));
  return result.hex();
}

/// What the files of a cache are made from.
Json origin(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab) {
  Json files = Json::array();
  for (const fs::path& file : input.files) {
    std::error_code error;
    const auto size = fs::file_size(file, error);
    const auto time = error ? fs::file_time_type() : fs::last_write_time(file, error);
    if (error) fail("{}: cannot read: {}", file.string(), error.message());
    files.push_back({{"name", file.string()}, {"bytes", size}, {"time", time.time_since_epoch().count()}});
  }
  return {{"files", files},
          {"field", input.reading.field},
          {"format", text_format_names[static_cast<std::size_t>(input.reading.format)]},
          {"most_tokens", input.most_tokens},
          {"context", input.context},
          {"tokenizer", digest(tokenizer)},
          {"vocab", vocab}};
}

template <typename Value>
std::span<const Value> mapped(const MappedFile& file) {
  return {reinterpret_cast<const Value*>(file.bytes().data()), file.bytes().size() / sizeof(Value)};
}

/// True if the documents' starts rise from 0 within the tokens, and their files exist.
bool sound(const TokenStore& store) {
  std::int64_t least = 0;
  for (const DocumentStart& document : store.documents) {
    const bool known = document.file >= 0 && document.file < std::ssize(store.files);
    if (!known || document.token < least || document.token >= store.size()) return false;
    least = document.token + 1;
  }
  return !store.documents.empty() && store.documents.front().token == 0;
}

/// The cache in `folder`, if it is whole and made from `wanted`.
std::optional<TokenStore> opened(const fs::path& folder, const Json& wanted, std::vector<std::string> files,
                                 bool resume) {
  if (!fs::exists(folder / "cache.json")) return {};
  try {
    const Json json = read_json(folder / "cache.json");
    const JsonObject cache(json, (folder / "cache.json").string());
    Json made_from = cache.at("origin");
    if (resume && made_from.contains("most_tokens")) made_from["most_tokens"] = wanted["most_tokens"];
    if (made_from != wanted) return {};
    const MappedFile tokens(folder / "tokens.bin"), documents(folder / "documents.bin");
    TokenStore store{.tokens = mapped<Token>(tokens),
                     .documents = mapped<DocumentStart>(documents),
                     .files = std::move(files),
                     .digest = cache.string("digest"),
                     .owner = std::make_shared<std::pair<MappedFile, MappedFile>>(tokens, documents)};
    const bool whole = store.size() == cache.integer("tokens", 1, most_values) &&
                       std::ssize(store.documents) == cache.integer("documents", 1, most_values);
    if (whole && sound(store)) return store;
  } catch (const Error&) {  // damaged: made anew, as it would be if it were not there
  }
  return {};
}

void write_cache(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab,
                 const fs::path& folder, const Json& made_from) {
  fs::create_directories(folder);
  fs::remove(folder / "cache.json");
  AtomicFile tokens(folder / "tokens.bin"), documents(folder / "documents.bin");
  std::int64_t token_count = 0, document_count = 0;
  Fingerprint digest;
  tokenise(input, tokenizer, vocab, [&](std::span<const Token> ids, std::span<const DocumentStart> starts) {
    const std::vector<DocumentStart> own = moved(starts, token_count);
    add(digest, ids, own);
    tokens.write(std::as_bytes(ids));
    documents.write(std::as_bytes(std::span(own)));
    token_count += std::ssize(ids);
    document_count += std::ssize(own);
  });
  tokens.commit();
  documents.commit();
  const Json json = {{"tokens", token_count},
                     {"documents", document_count},
                     {"digest", digest.hex()},
                     {"origin", made_from}};
  write_file(folder / "cache.json", json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace

std::int64_t TokenStore::document_of(std::int64_t token) const {
  const auto after = std::ranges::upper_bound(documents, token, {}, &DocumentStart::token);
  return after - documents.begin() - 1;
}

std::string TokenStore::describe(std::int64_t document) const {
  const DocumentStart& start = documents[static_cast<std::size_t>(document)];
  const std::string& file = files[static_cast<std::size_t>(start.file)];
  return start.line == 0 ? file : fmt::format("{} line {}", file, start.line);
}

TokenStore store_documents(const std::vector<std::vector<Token>>& documents, Token separator,
                           const std::string& origin) {
  auto gathered = std::make_shared<Gathered>();
  std::int64_t number = 0;
  for (const auto& document : documents) {
    ++number;
    if (document.empty()) continue;
    gathered->documents.push_back({.token = std::ssize(gathered->tokens), .file = 0, .line = number});
    gathered->tokens.insert(gathered->tokens.end(), document.begin(), document.end());
    gathered->tokens.push_back(separator);
  }
  add(gathered->digest, gathered->tokens, gathered->documents);
  return stored(gathered, {origin});
}

TokenStore read_tokens(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab) {
  auto gathered = std::make_shared<Gathered>();
  tokenise(input, tokenizer, vocab, [&](std::span<const Token> ids, std::span<const DocumentStart> starts) {
    const std::vector<DocumentStart> own = moved(starts, std::ssize(gathered->tokens));
    add(gathered->digest, ids, own);
    gathered->tokens.insert(gathered->tokens.end(), ids.begin(), ids.end());
    gathered->documents.insert(gathered->documents.end(), own.begin(), own.end());
  });
  return stored(gathered, names(input));
}

TokenStore cached_tokens(const TextInput& input, const Tokenizer& tokenizer, std::int64_t vocab,
                         const fs::path& folder, bool resume) {
  const Json wanted = origin(input, tokenizer, vocab);
  if (auto store = opened(folder, wanted, names(input), resume)) return *store;
  write_cache(input, tokenizer, vocab, folder, wanted);
  auto store = opened(folder, wanted, names(input), resume);
  if (!store) fail("{}: the tokens that were just written cannot be read back", folder.string());
  return *store;
}

}  // namespace fathom
