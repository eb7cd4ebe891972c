// fathom: the program. Exit codes: 0, 1 (failed), 2 (wrong usage), 130 (interrupted).
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/interrupt.h"
#include "cli/help.h"
#include "cli/nearest.h"
#include "cli/verbs.h"

namespace {

int failed(std::string_view message, int code) {
  fathom::print_error(message);
  return code;
}

/// Standard output is buffered: that a disk is full shows when it is flushed.
int finished() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
  return failed(fmt::format("standard output: cannot write: {}", std::strerror(errno)), 1);
}

/// What is said of words on a verb's command line that mean nothing there.
std::string unexpected(const CLI::App& verb, const std::string& words) {
  for (const std::string& word : verb.remaining()) {
    if (!word.starts_with("--")) continue;
    const std::string name = word.substr(0, word.find('='));
    std::vector<std::string> known;
    for (const CLI::Option* option : verb.get_options())
      for (const std::string& own : option->get_lnames()) known.push_back("--" + own);
    return fmt::format("{} has no option '{}'{} (`fathom {} --help` lists them)", verb.get_name(), name,
                       fathom::did_you_mean(name, known), verb.get_name());
  }
  return words;
}

#if FATHOM_HANDS_OVER
/// Sets what libraries read before main, unless the user has.
void prepare_libraries() {
  // libgomp, which libtorch computes with, lets idle threads spin for 300,000 rounds (some 10 ms) before they
  // sleep; on cores that other programs use too, that made a run of small products 25 times slower. 1,000
  // rounds (about 50 us) still bridge the gaps between products.
  const bool chosen = std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr;
  if (!chosen) ::setenv("GOMP_SPINCOUNT", "1000", 0);
  // A step's tensors in huge pages, which makes steps 3 to 13 % shorter, and the first one some seconds
  // longer; kept from step to step from the beginning on, as KeptMemory (train/step/kept_memory.h) does
  // later.
  ::setenv("GLIBC_TUNABLES",
           "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:"
           "glibc.malloc.trim_threshold=4294967296",
           0);
}

/// Verbs that train, help that names them, and what is no verb are for the program with libtorch, which lies
/// beside this one. Returns if it cannot be started.
int hand_over(char** arguments) {
  prepare_libraries();
  std::error_code unknown;
  const auto own = std::filesystem::read_symlink("/proc/self/exe", unknown);
  const auto other = own.parent_path() / "fathom-train";
  ::execv(other.c_str(), arguments);
  return failed(fmt::format("{}: cannot start the program that trains, which should lie beside {}: {}",
                            other.string(), own.filename().string(), std::strerror(errno)),
                1);
}
#endif

int run(int argc, char** argv) {
  using namespace fathom;
  CLI::App program(
      "Makes deep transformers cheaper in depth, trains them back, and says honestly what they lost.",
      "fathom");
  program.formatter(std::make_shared<WrappedHelp>());  // the verbs take it over
  program.set_version_flag("--version", "fathom " FATHOM_VERSION);
  program.require_subcommand(1);
  program.footer(
      "`fathom VERB --help` explains a verb and gives an example.\n\n"
      "Weights that take more than a second to pack are kept for the next start, in ~/.cache/fathom:\n"
      "FATHOM_CACHE=DIR keeps them elsewhere, FATHOM_CACHE=off does not keep them.");
  add_inspect(program);
  add_tokenize(program);
  add_logits(program);
  add_generate(program);
  add_chat(program);
  add_eval(program);
  add_bench(program);
  add_profile(program);
  add_prune(program);
  add_recur(program);
  add_exits(program);
  add_export(program);
#ifdef FATHOM_TRAINS
  add_train(program);
  add_compress(program);
#elif FATHOM_HANDS_OVER
  const std::string first = argc > 1 ? argv[1] : "--version";
  const auto own = program.get_subcommands([&](const CLI::App* verb) { return verb->get_name() == first; });
  if (own.empty() && first != "--version") return hand_over(argv);
#endif
  if (argc > 1 && argv[1][0] != '-') {
    std::vector<std::string> verbs;
    for (const CLI::App* verb : program.get_subcommands({})) verbs.push_back(verb->get_name());
    if (std::ranges::find(verbs, argv[1]) == verbs.end()) {
      return failed(fmt::format("there is no verb '{}'{} (`fathom --help` lists them)", argv[1],
                                did_you_mean(argv[1], verbs)),
                    2);
    }
  }
  try {
    program.parse(argc, argv);
    return finished();
  } catch (const CLI::ExtrasError& e) {
    const auto verbs = program.get_subcommands();
    return failed(verbs.empty() ? e.what() : unexpected(*verbs.front(), e.what()), 2);
  } catch (const CLI::ParseError& e) {
    return program.exit(e) == 0 ? finished() : 2;
  } catch (const UsageError& e) {
    return failed(e.what(), 2);
  } catch (const Interrupted&) {
    fmt::print(stderr, "\n");  // after a progress bar
    return failed("interrupted", 130);
  } catch (const std::filesystem::filesystem_error& e) {
    return failed(e.path1().string() + ": " + e.code().message(), 1);
  } catch (const std::bad_alloc&) {
    return failed("not enough memory", 1);
  } catch (const std::exception& e) {
    return failed(e.what(), 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  fathom::install_interrupt_handler();
  return run(argc, argv);
}
