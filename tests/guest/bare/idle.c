// Says "idle" and halts for ever: a guest that asks nothing of its host.
#include "runtime.h"

void guest_main(void) {
  print("idle\n");
  for (;;) wait_interrupt();
}
