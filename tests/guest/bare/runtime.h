// What every bare-metal guest stands on: ports, COM1, command line, interrupts, timers, ring 3.
// Freestanding C, general registers only: hosts whose ring 0 is emulated refuse int3, xsave*, popcnt,
// cmpxchg16b and run about 2 million instructions/s there, so loops over memory belong in run_user().
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

// daemon/memory/layout.h
enum {
  kSerialPort = 0x3F8,
  kSerialGsi = 4,
  kRtcPort = 0x70,
  kRtcGsi = 8,
  kI8042Command = 0x64,
  kAcpiResetPort = 0x600,
  kAcpiResetValue = 1,
  kAcpiSleepPort = 0x601,
  kAcpiSleepValue = 5 << 2 | 1 << 5,  // SLP_TYP 5, SLP_EN
};

// The guest itself. Interrupts are off, the LAPIC is on in x2APIC mode.
void guest_main(void);
// Other CPUs arrive here after start_other_cpus(), interrupts off.
void ap_main(void);

static inline void outb(u16 port, u8 value) {
  __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}
static inline u8 inb(u16 port) {
  u8 value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
  return value;
}
static inline u64 rdtsc(void) {
  u32 low, high;
  __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
  return (u64)high << 32 | low;
}
static inline u64 rdmsr(u32 msr) {
  u32 low, high;
  __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
  return (u64)high << 32 | low;
}
static inline void wrmsr(u32 msr, u64 value) {
  __asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
static inline void pause(void) {
  __asm__ volatile("pause" ::: "memory");
}
// Waits for one interrupt; `sti` takes effect after `hlt`, so none is missed between the two.
static inline void wait_interrupt(void) {
  __asm__ volatile("sti; hlt; cli" ::: "memory");
}
void stop(void) __attribute__((noreturn));

// COM1 by polling. print knows %s, %u (decimal u64) and %x (hexadecimal u64).
void print(const char* format, ...);
int serial_getc(void);  // -1: nothing there
// The next line without its end, from COM1, waiting with `hlt` in between.
void read_line(char* line, size_t size);

// "name=123" or "name=0x1f" on the command line; a bare word.
u64 option(const char* name, u64 otherwise);
bool option_given(const char* word);
u64 parse_number(const char** text);

// hvm_start_info version 1 and its memory map (Xen's public/arch-x86/hvm/start_info.h): where the runtime
// begins.
struct start_info {
  u32 magic, version, flags, modules;
  u64 module_list, command_line, rsdp, memory_map;
  u32 memory_map_entries, reserved;
};
struct memory_map_entry {
  u64 start, size;
  u32 type, reserved;
};
enum { kStartMagic = 0x336ec578 };
void runtime_main(const struct start_info* info);

// RAM ranges of hvm_start_info's memory map; false past the last.
bool ram_range(unsigned index, u64* start, u64* size);
extern char _end[];
// One-to-one page tables up to `limit` (64 GiB at most).
void map_memory(u64 limit);

// What an NMI calls, on any CPU that has loaded the interrupt table; without it, an NMI is an EXCEPTION 2.
void on_nmi(void (*handler)(void));
// For ap_main: the boot CPU has it.
void load_interrupt_table(void);
// Vectors 32..63. Handlers run with interrupts off; the runtime sends the EOI.
void on_interrupt(unsigned vector, void (*handler)(void));
void ioapic_route(unsigned pin, unsigned vector, bool level);
unsigned apic_id(void);
// LAPIC timer at KVM's 1 GHz: nanoseconds.
enum { kTimerOneShot = 0, kTimerPeriodic = 1, kTimerDeadline = 2 };
void lapic_timer(unsigned vector, unsigned mode, u32 nanoseconds);
void lapic_deadline(u64 tsc);
u64 tsc_per_millisecond(void);
// INIT and two STARTUP IPIs to all others.
void start_other_cpus(void);
void send_nmi_to_other_cpus(void);

// Calls function in ring 3, which runs at native speed everywhere; no ports, MSRs or printing there.
u64 run_user(u64 (*function)(u64), u64 argument);
// From ring 3: calls function in ring 0. SSE and x87 registers stay as they are.
u64 call_kernel(u64 (*function)(u64), u64 argument);
