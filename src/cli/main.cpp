// fathom: the program. Exit codes: 0, 1 (failed), 2 (wrong usage), 130 (interrupted).
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/threads.h"
#include "cli/help.h"
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

int run(int argc, char** argv) {
  using namespace fathom;
  CLI::App program(
      "Makes deep transformers cheaper in depth, trains them back, and says honestly what they lost.",
      "fathom");
  program.formatter(std::make_shared<WrappedHelp>());  // the verbs take it over
  program.set_version_flag("--version", "fathom " FATHOM_VERSION);
  program.require_subcommand(1);
  program.footer("`fathom VERB --help` explains a verb and gives an example.");
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
#if FATHOM_TRAIN
  add_train(program);
  add_compress(program);
#endif
  try {
    program.parse(argc, argv);
    return finished();
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
#if FATHOM_TRAIN
  const std::string_view verb = argc > 1 ? argv[1] : "";
  if (verb == "train" || verb == "compress") fathom::spin_briefly(argv);  // the verbs that use libtorch
#endif
  fathom::install_interrupt_handler();
  return run(argc, argv);
}
