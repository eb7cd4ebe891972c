#include "base/interrupt.h"

#include <csignal>

#include "base/error.h"

namespace fathom {
namespace {

volatile std::sig_atomic_t signalled = 0;

void on_signal(int signal) {
  signalled = 1;
  std::signal(signal, SIG_DFL);  // the second one is not caught: a user who insists gets out
}

}  // namespace

void install_interrupt_handler() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
}

bool interrupted() { return signalled != 0; }

void clear_interrupt() {
  signalled = 0;
  install_interrupt_handler();
}

void check_interrupt() {
  if (interrupted()) throw Interrupted();
}

}  // namespace fathom
