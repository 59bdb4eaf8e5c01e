// The agent's commands, each answered by lines on the same terminal:
//   echo TEXT                      echo TEXT
//   count                          count N                (of the tick counter)
//   tick MS                        tick N, every MS milliseconds; 0 stops
//   mem write|check SEED MIB       ok DIGEST | bad OFFSET  (anonymous memory)
//   phys write|check SEED AT MIB   the same at a physical address in MiB (/dev/mem: RAM kept out with
//   memmap=) time                           time realtime S monotonic S boottime S rtc rtc YYYY-MM-DD
//   HH:MM:SS random                         random HEX             (16 bytes of getrandom) cpus cpus N,
//   having run on each of them uptime                         uptime S sleep-timer MS                 slept
//   MICROSECONDS cat PATH                       the first 4 KiB of a file, then a line "end" put PATH TEXT
//   put BYTES              (into an existing file) dmesg WORD                     kernel messages with WORD
//   in them, 40 at most, then a line "end" poweroff, reboot
#pragma once

#include "sys.h"

struct agent {
  u64 count;
  int tick_timer;
};

void run_command(struct agent* agent, char* line);
void set_tick(struct agent* agent, u64 milliseconds);
void power_off(void);
