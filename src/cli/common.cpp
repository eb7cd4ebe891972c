#include <cstdio>

#include "base/file.h"
#include "base/progress.h"
#include "base/threads.h"
#include "cli/verbs.h"

namespace fathom {

void add_common(CLI::App& verb, CommonOptions& options, bool reports_figures) {
  verb.add_option("--threads", options.threads, "Threads; 0 = all cores")
      ->capture_default_str()
      ->check(CLI::Range(0, 4096));
  verb.add_option("--seed", options.seed, "Seed of everything random")->capture_default_str();
  verb.add_flag("--quiet,-q", options.quiet, "No progress bars");
  if (reports_figures)
    verb.add_option("--json", options.json, "Write the figures as JSON; - = standard output")
        ->type_name("FILE");
}

void apply_common(const CommonOptions& options) {
  set_threads(options.threads);
  set_quiet(options.quiet);
}

void emit_json(const CommonOptions& options, const Json& figures) {
  if (options.json.empty()) return;
  const std::string text = figures.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  if (options.json == "-") {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  } else {
    write_file(options.json, text);
  }
}

}  // namespace fathom
