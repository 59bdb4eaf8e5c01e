// clang-format off
// The agent's commands, each answered by lines on the same terminal:
//   echo TEXT                      echo TEXT
//   count                          count N                (of the tick counter)
//   tick MS                        tick N, every MS milliseconds; 0 stops
//   mem write|check SEED MIB       ok DIGEST | bad OFFSET (anonymous memory)
//   phys write|check SEED AT MIB   the same at a physical address in MiB (/dev/mem: RAM kept out with memmap=)
//   time                           time realtime S monotonic S boottime S
//   rtc                            rtc YYYY-MM-DD HH:MM:SS
//   random                         random HEX             (16 bytes of getrandom)
//   cpus                           cpus N, having run on each of them
//   pin CPU                        pin ERROR             (runs on that CPU only from now on)
//   uptime                         uptime S
//   sleep-timer MS                 slept MICROSECONDS
//   cat PATH                       the first 4 KiB of a file, then a line "end"
//   size                           size COLUMNS ROWS      (of its terminal)
//   put PATH TEXT                  put BYTES              (into an existing file)
//   say PATH TEXT                  put BYTES              (the same, and the end of a line)
//   hex PATH BYTES                 hex DIGITS | hex: error ERRNO (64 bytes at most)
//   file write|check PATH SEED AT KIB   ok DIGEST | bad OFFSET | file: error ERRNO (AT in KiB; write ends with fsync)
//   dmesg WORD                     kernel messages with WORD in them, 40 at most, then a line "end"
//   vsock listen|connect PORT      vsock listening | vsock connected; of all these: vsock: error ERRNO
//   vsock accept|shut|close        vsock accepted | vsock shut | vsock closed
//   vsock read                     vsock read TEXT | vsock end
//   vsock write TEXT               vsock written
//   vsock send|receive SEED KIB    ok DIGEST | bad OFFSET (as mem)
//   vsock cid                      vsock cid N
//   mount DEVICE DIRECTORY TYPE    mount ERROR
// Records of 4 KiB, past the page cache; FIRST and COUNT in records:
//   disk write|check PATH SEED FIRST COUNT   disk wrote COUNT | disk checked COUNT | disk: what is wrong
//   disk start PATH SEED WRITERS SLOTS       that many processes, each going round in its slots, for ever
//   disk stop                                disk PATH writer W next N for each, then disk stopped RECORDS
//   disk verify PATH SEED 0 SLOTS            after stop: every slot has its last record
//   disk discard PATH FIRST COUNT            disk discarded ERROR
//   disk trim DIRECTORY                      disk trimmed BYTES
//   net up INTERFACE ADDRESS BITS  net up | net: error ERRNO, as all of these
//   net listen PORT, accept, connect ADDRESS PORT, close   net listening | accepted | connected | closed (TCP)
//   net send|receive SEED KIB      ok DIGEST | bad OFFSET (as mem)
// Records as the disks', over the network, by processes of their own:
//   traffic datagrams ADDRESS PORT SEED BYTES   traffic started (UDP, without end)
//   traffic echo ADDRESS PORT SEED              traffic started (TCP: records of 1 KiB are checked, and go back)
//   traffic stop                                traffic stopped SENT ECHOED ERRNO (1: a record was torn, or another's)
//   poweroff, reboot
// clang-format on
#pragma once

#include "sys.h"

struct agent {
  u64 count;
  int tick_timer;
};

void run_command(struct agent* agent, char* line);
void set_tick(struct agent* agent, u64 milliseconds);
void power_off(void);

void disk(char* line);
void vsock(char* line);
void net(char* line);
void run_traffic(char* line);
// A socket that listens on `port` of vsock; and one line of who connected to it, answered there.
int vsock_service(u32 port);
void serve_line(int service, struct agent* agent);

// "10.0.0.1" as four bytes.
void internet_address(const char* text, u8* bytes);

// A record of so many words that tells which it is, and whether it is whole; `scratch` is as long.
void fill_record(u64* record, u64 words, u64 number, u64 seed);
bool record_is_whole(const u64* record, u64* scratch, u64 words, u64 seed);

// Words that tell from which offset and seed they are. check_pattern() prints "ok DIGEST" or "bad OFFSET".
void fill_pattern(u64* words, u64 size, u64 seed);
void check_pattern(const u64* words, u64 size, u64 seed);
// Such a pattern over a stream, whole, and checked; or "NAME: error ERRNO after BYTES".
void transfer(const char* name, int stream, bool sending, u64 seed, u64 size);
