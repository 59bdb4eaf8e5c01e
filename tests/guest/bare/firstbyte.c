// For measuring: the very first instructions write '!' to COM1 (start.S), then one byte of each page of `mib`
// (0) MiB from 2 MiB on is touched, then '.' is written every `period_us` (500): spinning, so that a restored
// guest shows itself at once, or with the word "sleep" halted in between.
#include "runtime.h"

static void dot(void) {
  outb(kSerialPort, '.');
}

static u64 touch(u64 mib) {
  u64 start, size, left = mib << 20;
  for (unsigned i = 0; ram_range(i, &start, &size); i++)
    for (u64 address = start; address < start + size && left > 0; address += 4096) {
      if (address < 2 << 20) continue;
      *(volatile u64*)address = address ^ 0x5aa5;
      left -= 4096;
    }
  return 0;
}

void guest_main(void) {
  u64 mib = option("mib", 0), period = option("period_us", 500);
  if (mib > 0) {
    map_memory(64ull << 30);
    run_user(touch, mib);
  }
  dot();
  if (option_given("sleep")) {
    on_interrupt(32, dot);
    lapic_timer(32, kTimerPeriodic, (u32)period * 1000);
    for (;;) wait_interrupt();
  }
  u64 step = tsc_per_millisecond() * period / 1000;
  for (;;) {
    u64 until = rdtsc() + step;
    dot();
    while (rdtsc() < until) pause();
  }
}
