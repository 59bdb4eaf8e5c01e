// Keeps time by PIC and PIT alone: prints "pit N PM" at every 5th IRQ 0 of `hz` (50) a second, with the ACPI
// PM timer beside it, and answers each line it is sent with "echo LINE". "pit spurious N" tells of an IRQ 7
// or 15 that was none.
#include "runtime.h"

enum {
  kMaster = 0x20,
  kSlave = 0xA0,
  kPit = 0x40,
  kPmTimerPort = 0x608,
  kMasterVector = 32,
  kSlaveVector = 40
};

static volatile u64 ticks;

static u32 inl(u16 port) {
  u32 value;
  __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}

static void tick(void) {
  ticks++;
  outb(kMaster, 0x20);  // end of interrupt
}
static void spurious(void) {
  print("pit spurious\n");
}

static void set_up_pics(void) {
  outb(kMaster, 0x11);
  outb(kSlave, 0x11);
  outb(kMaster + 1, kMasterVector);
  outb(kSlave + 1, kSlaveVector);
  outb(kMaster + 1, 4);
  outb(kSlave + 1, 2);
  outb(kMaster + 1, 1);
  outb(kSlave + 1, 1);
  outb(kMaster + 1, 0xFE);
  outb(kSlave + 1, 0xFF);
}

void guest_main(void) {
  char line[64];
  size_t length = 0;
  u64 count = 1193182 / option("hz", 50);
  on_interrupt(kMasterVector, tick);
  on_interrupt(kMasterVector + 7, spurious);
  on_interrupt(kSlaveVector + 7, spurious);
  set_up_pics();
  outb(kPit + 3, 0x34);  // channel 0, both bytes, rate generator
  outb(kPit, (u8)count);
  outb(kPit, (u8)(count >> 8));
  for (u64 printed = 0;;) {
    wait_interrupt();
    if (ticks >= printed + 5) {
      printed = ticks;
      print("pit %u %u\n", printed, (u64)inl(kPmTimerPort));
    }
    for (int c; (c = serial_getc()) >= 0;) {
      if (c == '\n') {
        line[length] = 0;
        print("echo %s\n", line);
        length = 0;
      } else if (length + 1 < sizeof line) {
        line[length++] = (char)c;
      }
    }
  }
}
