// LAPIC timer (TSC deadline, or periodic with the word "periodic") every 5 ms beside the RTC's periodic
// interrupt at 64 Hz through the IOAPIC. Prints "tsc N lapic N rtc N" at every 16th RTC interrupt.
#include "runtime.h"

static volatile u64 tsc_count, lapic_count, rtc_count;
static u64 step;

static void deadline(void) {
  tsc_count++;
  lapic_deadline(rdtsc() + step);
}
static void periodic(void) {
  lapic_count++;
}
static u8 rtc_read(u8 index) {
  outb(kRtcPort, index);
  return inb(kRtcPort + 1);
}
static void rtc_write(u8 index, u8 value) {
  outb(kRtcPort, index);
  outb(kRtcPort + 1, value);
}
static void rtc(void) {
  // Register C says which interrupt it was (0x40: periodic); reading it allows the next one.
  if (rtc_read(0x0C) & 0x40) rtc_count++;
}

void guest_main(void) {
  if (option_given("periodic")) {
    on_interrupt(33, periodic);
    lapic_timer(33, kTimerPeriodic, 5000000);
  } else {
    step = tsc_per_millisecond() * 5;
    on_interrupt(32, deadline);
    lapic_timer(32, kTimerDeadline, 0);
    lapic_deadline(rdtsc() + step);
  }
  on_interrupt(34, rtc);
  ioapic_route(kRtcGsi, 34, false);
  rtc_write(0x0A, 0x2A);                   // 32 kHz time base, 64 Hz
  rtc_write(0x0B, rtc_read(0x0B) | 0x40);  // PIE
  rtc_read(0x0C);
  for (u64 printed = 0;;) {
    wait_interrupt();
    if (rtc_count < printed + 16) continue;
    printed = rtc_count;
    print("tsc %u lapic %u rtc %u\n", tsc_count, lapic_count, printed);
  }
}
