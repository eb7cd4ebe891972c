// fathom: the program. Exit codes: 0, 1 (failed), 2 (wrong usage), 130 (interrupted).
#include <cstdio>
#include <exception>
#include <memory>
#include <new>

#include "base/error.h"
#include "base/interrupt.h"
#include "base/threads.h"
#include "cli/help.h"
#include "cli/verbs.h"

namespace {

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
  add_profile(program);
  add_prune(program);
  add_recur(program);
#if FATHOM_TRAIN
  add_train(program);
  add_compress(program);
#endif
  try {
    program.parse(argc, argv);
    return 0;
  } catch (const CLI::ParseError& e) {
    return program.exit(e) == 0 ? 0 : 2;
  } catch (const UsageError& e) {
    fmt::print(stderr, "fathom: {}\n", e.what());
    return 2;
  } catch (const Interrupted&) {
    fmt::print(stderr, "\nfathom: interrupted\n");
    return 130;
  } catch (const std::bad_alloc&) {
    fmt::print(stderr, "fathom: not enough memory\n");
    return 1;
  } catch (const std::exception& e) {
    fmt::print(stderr, "fathom: {}\n", e.what());
    return 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  fathom::spin_briefly(argv);
  fathom::install_interrupt_handler();
  return run(argc, argv);
}
