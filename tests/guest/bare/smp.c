// Starts the other CPUs with INIT and STARTUP and waits until `cpus` (1) are there, then says "cpus N".
// Each counts in a word of its own, at least a page's line apart; "c" prints "counters A B C …" in APIC id
// order, "n" prints "nmis A B C …" likewise, "k" sends the others an NMI and says "sent", "s N" starts them
// later and says "cpus N" once N are there.
#include "runtime.h"

static volatile struct {
  u64 count, up, nmis, fill[5];
} cpu[256];

static void count_nmi(void) {
  cpu[apic_id() & 255].nmis++;
}

static __attribute__((noreturn)) u64 count_for_ever(u64 id) {
  for (;;) {
    cpu[id].count++;
    pause();
  }
}

void ap_main(void) {
  load_interrupt_table();
  wrmsr(0x1B, rdmsr(0x1B) | 0xC00);  // x2APIC
  u64 id = apic_id() & 255;
  cpu[id].up = 1;
  count_for_ever(id);
}

static void have_cpus(u64 wanted) {
  u64 up;
  if (wanted > 1) start_other_cpus();
  do {
    up = 0;
    for (unsigned i = 0; i < 256; i++) up += cpu[i].up;
    pause();
  } while (up < wanted);
  print("cpus %u\n", up);
}

void guest_main(void) {
  on_nmi(count_nmi);
  cpu[apic_id() & 255].up = 1;
  have_cpus(option("cpus", 1));
  for (;;) {
    char line[16];
    read_line(line, sizeof line);
    if (line[0] == 'k') {
      send_nmi_to_other_cpus();
      print("sent\n");
      continue;
    }
    if (line[0] == 's') {
      const char* text = line + 1;
      have_cpus(parse_number(&text));
      continue;
    }
    cpu[apic_id() & 255].count++;
    print(line[0] == 'n' ? "nmis" : "counters");
    for (unsigned i = 0; i < 256; i++)
      if (cpu[i].up) print(" %u", line[0] == 'n' ? cpu[i].nmis : cpu[i].count);
    print("\n");
  }
}
