// Exits without a pause: RTC RAM through ports, the IOAPIC through MMIO, checked at every access, and lines
// that go out 16 bytes at once (rep outsb). Says "storm N" after each round, or "bad WHERE FOUND EXPECTED"
// and stops.
#include "runtime.h"

static void check(const char* where, u64 found, u64 expected) {
  if (found == expected) return;
  print("bad %s %x %x\n", where, found, expected);
  stop();
}

static void out_string(const char* text, u64 length) {
  while (!(inb(kSerialPort + 5) & 0x20)) pause();
  __asm__ volatile("rep outsb" : "+S"(text), "+c"(length) : "d"(kSerialPort) : "memory");
}

void guest_main(void) {
  volatile u32 *select = (volatile u32*)0xFEC00000, *window = (volatile u32*)0xFEC00010;
  for (u64 round = 0;; round++) {
    for (u32 i = 0; i < 24; i++) {
      u8 value = (u8)(round * 7 + i * 13 + 1);
      outb(kRtcPort, (u8)(0x50 + i));
      outb(kRtcPort + 1, value);
      *select = 0x10 + i * 2 + 1;
      check("ioapic select", *select, 0x10 + i * 2 + 1);
      *window = (u32)value << 24;
      check("ioapic entry", *window, (u32)value << 24);
      check("rtc", inb(kRtcPort + 1), value);
    }
    out_string("abcdefghijklmno\n", 16);
    print("storm %u\n", round);
  }
}
