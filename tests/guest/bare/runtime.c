#include "runtime.h"

#include <stdarg.h>

enum { kTypeRam = 1 };

static const struct start_info* start_info;
static void (*handlers[64])(void);
static void (*nmi_handler)(void);

// x2APIC registers.
enum { kApicBase = 0x1B, kApicId = 0x802, kEoi = 0x80B, kSpurious = 0x80F, kIcr = 0x830, kTimer = 0x832 };
enum { kTimerInitial = 0x838, kTimerCurrent = 0x839, kTimerDivide = 0x83E, kTscDeadline = 0x6E0 };

void stop(void) {
  for (;;) __asm__ volatile("cli; hlt");
}

static void write_serial(const char* text, size_t length) {
  while (length > 0) {
    while (!(inb(kSerialPort + 5) & 0x20)) pause();
    // An empty transmitter holds a FIFO of 16.
    for (int i = 0; i < 16 && length > 0; i++, length--) outb(kSerialPort, (u8)*text++);
  }
}

static size_t format_number(char* end, u64 value, unsigned base) {
  size_t n = 0;
  do {
    *--end = "0123456789abcdef"[value % base];
    value /= base;
    n++;
  } while (value != 0);
  return n;
}

void print(const char* format, ...) {
  char out[256], number[24];
  size_t length = 0;
  va_list arguments;
  va_start(arguments, format);
  for (; *format != 0 && length < sizeof out - sizeof number; format++) {
    if (*format != '%') {
      out[length++] = *format;
      continue;
    }
    format++;
    const char* text = number;
    size_t n = 0;
    if (*format == 's') {
      text = va_arg(arguments, const char*);
      while (text[n] != 0) n++;
    } else {
      n = format_number(number + sizeof number, va_arg(arguments, u64), *format == 'x' ? 16 : 10);
      text = number + sizeof number - n;
    }
    for (size_t i = 0; i < n && length < sizeof out; i++) out[length++] = text[i];
  }
  va_end(arguments);
  write_serial(out, length);
}

int serial_getc(void) {
  return (inb(kSerialPort + 5) & 1) ? inb(kSerialPort) : -1;
}

static void nothing(void) {}

void read_line(char* line, size_t size) {
  size_t n = 0;
  on_interrupt(63, nothing);
  lapic_timer(63, kTimerPeriodic, 2 * 1000 * 1000);
  for (;;) {
    int c = serial_getc();
    if (c < 0) {
      wait_interrupt();
    } else if (c == '\n') {
      break;
    } else if (n + 1 < size) {
      line[n++] = (char)c;
    }
  }
  line[n] = 0;
  lapic_timer(63, kTimerOneShot, 0);
}

u64 parse_number(const char** text) {
  const char* p = *text;
  u64 value = 0;
  unsigned base = 10;
  while (*p == ' ') p++;
  if (p[0] == '0' && p[1] == 'x') {
    base = 16;
    p += 2;
  }
  for (;; p++) {
    unsigned digit = (unsigned)(*p >= 'a' ? *p - 'a' + 10 : *p - '0');
    if (digit >= base) break;
    value = value * base + digit;
  }
  *text = p;
  return value;
}

// What follows `word` where the command line has it at the start of a word.
static const char* find_option(const char* word) {
  const char* p = (const char*)start_info->command_line;
  for (bool at_start = true; p && *p; at_start = *p++ == ' ') {
    size_t n = 0;
    while (word[n] && p[n] == word[n]) n++;
    if (at_start && word[n] == 0) return p + n;
  }
  return NULL;
}

u64 option(const char* name, u64 otherwise) {
  const char* value = find_option(name);
  if (!value || *value != '=') return otherwise;
  value++;
  return parse_number(&value);
}

bool option_given(const char* word) {
  const char* end = find_option(word);
  return end && (*end == 0 || *end == ' ');
}

bool ram_range(unsigned index, u64* start, u64* size) {
  const struct memory_map_entry* map = (const struct memory_map_entry*)start_info->memory_map;
  for (u32 i = 0; i < start_info->memory_map_entries; i++) {
    if (map[i].type != kTypeRam || index-- > 0) continue;
    *start = map[i].start;
    *size = map[i].size;
    return true;
  }
  return false;
}

void map_memory(u64 limit) {
  static u64 directories[60][512] __attribute__((aligned(4096)));
  extern u64 page_directory_pointers[];
  for (u64 gib = 4; gib < 64 && gib << 30 < limit; gib++) {
    u64* directory = directories[gib - 4];
    for (u64 i = 0; i < 512; i++) directory[i] = (gib << 30) + (i << 21) + 0xe7;
    page_directory_pointers[gib] = (u64)directory + 7;
  }
}

struct frame {
  u64 r11, r10, r9, r8, rdi, rsi, rdx, rcx, rax, vector, error, rip, cs, flags, rsp, ss;
};

void runtime_interrupt(struct frame* frame) {
  extern char user_trap[];
  if (frame->vector < 32) {
    if (frame->vector == 6 && frame->rip == (u64)user_trap) {
      u64 (*function)(u64) = (u64(*)(u64))frame->rdi;
      frame->rax = function(frame->rsi);
      frame->rip += 2;
      return;
    }
    if (frame->vector == 2 && nmi_handler != NULL) {
      nmi_handler();
      return;
    }
    u64 address;
    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    print("EXCEPTION %u error %x rip %x cr2 %x\n", frame->vector, frame->error, frame->rip, address);
    stop();
  }
  handlers[frame->vector]();
  wrmsr(kEoi, 0);
}

static struct {
  u16 offset0, selector;
  u8 stack, type;
  u16 offset1;
  u32 offset2, reserved;
} idt[64];

static void set_gate(unsigned vector) {
  extern char interrupt_stubs[];
  u64 target = (u64)interrupt_stubs + vector * 16;
  idt[vector].offset0 = (u16)target;
  idt[vector].selector = 0x10;
  idt[vector].type = 0x8e;
  idt[vector].offset1 = (u16)(target >> 16);
}

void on_interrupt(unsigned vector, void (*handler)(void)) {
  handlers[vector] = handler;
  set_gate(vector);
}

void on_nmi(void (*handler)(void)) {
  nmi_handler = handler;
}

void load_interrupt_table(void) {
  struct __attribute__((packed)) {
    u16 limit;
    u64 base;
  } pointer = {sizeof idt - 1, (u64)idt};
  __asm__ volatile("lidt %0" ::"m"(pointer));
}

void ioapic_route(unsigned pin, unsigned vector, bool level) {
  volatile u32 *select = (volatile u32*)0xFEC00000, *window = (volatile u32*)0xFEC00010;
  *select = 0x10 + pin * 2 + 1;
  *window = apic_id() << 24;
  *select = 0x10 + pin * 2;
  *window = vector | (level ? 1u << 15 : 0);
}

unsigned apic_id(void) {
  return (unsigned)rdmsr(kApicId);
}

void lapic_timer(unsigned vector, unsigned mode, u32 nanoseconds) {
  wrmsr(kTimerDivide, 0xB);  // by 1
  wrmsr(kTimer, mode << 17 | vector);
  wrmsr(kTimerInitial, nanoseconds);
}

void lapic_deadline(u64 tsc) {
  wrmsr(kTscDeadline, tsc);
}

u64 tsc_per_millisecond(void) {
  lapic_timer(63, kTimerOneShot, 0xffffffff);
  wrmsr(kTimer, 1 << 16);  // masked: only its count is wanted
  u64 start = rdtsc();
  u32 from = (u32)rdmsr(kTimerCurrent), to;
  do to = (u32)rdmsr(kTimerCurrent);
  while (from - to < 4000000);
  u64 cycles = rdtsc() - start;
  wrmsr(kTimerInitial, 0);
  return cycles * 1000000 / (from - to);
}

void start_other_cpus(void) {
  extern char ap_trampoline[], ap_trampoline_end[];
  volatile char* to = (volatile char*)0x8000;
  for (char* from = ap_trampoline; from < ap_trampoline_end; from++) *to++ = *from;
  wrmsr(kIcr, 0xC4500);  // all others: INIT
  wrmsr(kIcr, 0xC4608);  // STARTUP at 0x8000, twice as Intel's SDM 8.4.4 has it
  wrmsr(kIcr, 0xC4608);
}

void send_nmi_to_other_cpus(void) {
  wrmsr(kIcr, 0xC4400);
}

static void load_tables(void) {
  extern u64 gdt[];
  extern char task_state[];
  u64 base = (u64)task_state;
  gdt[6] = 103 | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
  gdt[7] = base >> 32;
  for (unsigned vector = 0; vector < 32; vector++) set_gate(vector);
  load_interrupt_table();
  __asm__ volatile("ltr %w0" ::"r"(0x30));
}

void runtime_main(const struct start_info* info) {
  start_info = info;
  load_tables();
  outb(kSerialPort + 2, 7);  // FIFOs on and empty
  wrmsr(kApicBase, rdmsr(kApicBase) | 0xC00);
  wrmsr(kSpurious, 0x1ff);
  if (info->magic != kStartMagic || info->version < 1) {
    print("no hvm_start_info\n");
    stop();
  }
  guest_main();
}

__attribute__((weak)) void ap_main(void) {
  stop();
}
