// Answers each line with "clock TSC PM": the TSC and the ACPI PM timer (32 bits, 3.579545 MHz), read
// together. First says "clock KHZ", the TSC's frequency as the LAPIC timer shows it.
#include "runtime.h"

enum { kPmTimerPort = 0x608 };

static u32 inl(u16 port) {
  u32 value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

void guest_main(void) {
  char line[16];
  print("clock %u\n", tsc_per_millisecond());
  for (;;) {
    read_line(line, sizeof line);
    u32 pm = inl(kPmTimerPort);
    print("clock %u %u\n", rdtsc(), (u64)pm);
  }
}
