// COM1 by interrupts only, edge triggered or (word "level") level triggered: echoes each line as "echo LINE",
// and answers "irqs" with how many interrupts told of a received byte and of an empty transmitter.
#include "runtime.h"

static char out[1024], in[128];
static volatile unsigned out_head, out_tail;
static unsigned in_length;
static u64 received, emptied;

static void put(const char* text) {
  while (*text) out[out_head++ % sizeof out] = *text++;
}

static void put_number(u64 value) {
  char digits[21];
  unsigned n = sizeof digits;
  digits[--n] = 0;
  do digits[--n] = (char)('0' + value % 10);
  while ((value /= 10) != 0);
  put(digits + n);
}

static void take(char c) {
  if (c != '\n') {
    if (in_length + 1 < sizeof in) in[in_length++] = c;
    return;
  }
  in[in_length] = 0;
  in_length = 0;
  if (in[0] == 'i' && in[1] == 'r' && in[2] == 'q' && in[3] == 's' && in[4] == 0) {
    put("received ");
    put_number(received);
    put(" emptied ");
    put_number(emptied);
  } else {
    put("echo ");
    put(in);
  }
  put("\n");
  outb(kSerialPort + 1, 3);  // something to send: the transmitter's interrupt on
}

static void serial(void) {
  for (;;) {
    u8 why = inb(kSerialPort + 2) & 0xF;
    if (why & 1) return;
    if (why == 4 || why == 0xC) {
      received++;
      for (int c; (c = serial_getc()) >= 0;) take((char)c);
    } else if (why == 2) {
      emptied++;
      for (int i = 0; i < 16 && out_tail != out_head; i++)
        outb(kSerialPort, (u8)out[out_tail++ % sizeof out]);
      if (out_tail == out_head) outb(kSerialPort + 1, 1);
    } else {
      inb(kSerialPort + 5);  // line status
      inb(kSerialPort + 6);  // modem status
    }
  }
}

void guest_main(void) {
  on_interrupt(36, serial);
  ioapic_route(kSerialGsi, 36, option_given("level"));
  outb(kSerialPort + 4, 0xB);  // DTR, RTS, OUT2: a PC's interrupt gate
  put("irq ready\n");
  outb(kSerialPort + 1, 3);
  for (;;) wait_interrupt();
}
