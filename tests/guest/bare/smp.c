// Starts the other CPUs with INIT and STARTUP and waits until `cpus` (1) are there, then says "cpus N".
// Each counts in a word of its own, at least a page's line apart; "c" prints "counters A B C …" in APIC id
// order.
#include "runtime.h"

static volatile struct {
  u64 count, up, fill[6];
} cpu[256];

static __attribute__((noreturn)) u64 count_for_ever(u64 id) {
  for (;;) {
    cpu[id].count++;
    pause();
  }
}

void ap_main(void) {
  wrmsr(0x1B, rdmsr(0x1B) | 0xC00);  // x2APIC
  u64 id = apic_id() & 255;
  cpu[id].up = 1;
  count_for_ever(id);
}

void guest_main(void) {
  u64 wanted = option("cpus", 1), up;
  cpu[apic_id() & 255].up = 1;
  if (wanted > 1) start_other_cpus();
  do {
    up = 0;
    for (unsigned i = 0; i < 256; i++) up += cpu[i].up;
    pause();
  } while (up < wanted);
  print("cpus %u\n", up);
  for (;;) {
    char line[16];
    read_line(line, sizeof line);
    cpu[apic_id() & 255].count++;
    print("counters");
    for (unsigned i = 0; i < 256; i++)
      if (cpu[i].up) print(" %u", cpu[i].count);
    print("\n");
  }
}
