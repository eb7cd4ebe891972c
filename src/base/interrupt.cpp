#include "base/interrupt.h"

#include <signal.h>

#include "base/error.h"

namespace fathom {
namespace {

volatile sig_atomic_t signalled = 0;

void on_signal(int /*signal*/) { signalled = 1; }

}  // namespace

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  // The second one is not caught: a user who insists gets out. No SA_RESTART: a wait for input ends.
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
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
