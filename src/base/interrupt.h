// Ctrl-C as a flag that long loops look at, so that files are closed and partial results removed or kept on
// purpose.
#pragma once

namespace fathom {

/// Lets SIGINT and SIGTERM set the flag; a second signal ends the process at once. Called once by main.
void install_interrupt_handler();

/// True once a signal came.
bool interrupted();

/// Forgets the signal and catches the next one again: a chat goes on after Ctrl-C has ended an answer.
void clear_interrupt();

/// Throws Interrupted once a signal came. Long loops call it every fraction of a second.
void check_interrupt();

}  // namespace fathom
