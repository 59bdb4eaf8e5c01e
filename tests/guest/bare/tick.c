// Prints "tick N" for ever, a line every `period_ms` (10), and answers each line it is sent with "echo LINE".
#include "runtime.h"

static void nothing(void) {}

void guest_main(void) {
  char line[128];
  size_t length = 0;
  on_interrupt(32, nothing);
  lapic_timer(32, kTimerPeriodic, (u32)option("period_ms", 10) * 1000000);
  for (u64 tick = 0;; tick++) {
    print("tick %u\n", tick);
    for (int c; (c = serial_getc()) >= 0;) {
      if (c == '\n') {
        line[length] = 0;
        print("echo %s\n", line);
        length = 0;
      } else if (length + 1 < sizeof line) {
        line[length++] = (char)c;
      }
    }
    wait_interrupt();
  }
}
