#pragma once

#include <signal.h>

namespace vmmd {

/// What a thread blocks that leaves signals to another: all but those that say what it did wrong itself. The
/// kernel kills a process whose thread blocks one of these and meets it, whatever handler there is.
inline sigset_t all_but_faults() {
  sigset_t set;
  sigfillset(&set);
  for (const int signal : {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS}) sigdelset(&set, signal);
  return set;
}

}  // namespace vmmd
