// Ends in one of several ways. HOW is compiled in; with the word "wait" on the command line the guest first
// says "ready" and waits for a line, which may name another way.
#include "runtime.h"

static void run(char how) {
  switch (how) {
    case 'p':  // ACPI S5
      outb(kAcpiSleepPort, kAcpiSleepValue);
      break;
    case 'i':  // the keyboard controller's reset line
      outb(kI8042Command, 0xFE);
      break;
    case 'a':  // FADT's reset register
      outb(kAcpiResetPort, kAcpiResetValue);
      break;
    case 't': {  // no interrupt table, then an exception: triple fault
      struct __attribute__((packed)) {
        u16 limit;
        u64 base;
      } none = {0, 0};
      __asm__ volatile("lidt %0; ud2" ::"m"(none));
      break;
    }
    case 'x': {  // XSAVE into a hole of the address space: KVM can emulate that nowhere
      u64 cr4;
      __asm__ volatile("mov %%cr4, %0" : "=r"(cr4));
      __asm__ volatile("mov %0, %%cr4" ::"r"(cr4 | 1 << 18));
      __asm__ volatile("xsave (%0)" ::"r"(0xD0000000ul), "a"(1), "d"(0) : "memory");
      break;
    }
  }
}

void guest_main(void) {
  char how = HOW;
  if (option_given("wait")) {
    char line[16];
    print("ready\n");
    read_line(line, sizeof line);
    if (line[0] != 0) how = line[0];
  }
  print("exit %s\n", (char[]){how, 0});
  run(how);
  print("still here\n");
  stop();
}
