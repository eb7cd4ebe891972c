#include "model/staging.h"

#include <fmt/format.h>
#include <unistd.h>

#include <system_error>

namespace fathom {

namespace fs = std::filesystem;

fs::path hidden_sibling(const fs::path& target, const char* kind) {
  return target.parent_path() / fmt::format(".{}.{}-{}", target.filename().string(), kind, ::getpid());
}

Staging::Staging(const fs::path& target) : path_(hidden_sibling(target, "part")) { fs::remove_all(path_); }

Staging::~Staging() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace fathom
