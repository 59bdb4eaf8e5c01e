// Linux x86-64 system calls without libc: only what the agent uses. All return -errno on failure.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int64_t i64;

static inline long sys(long number, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}
#define SYS(number, a, b, c, d) sys(number, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

enum { kReadOnly = 0, kWriteOnly = 1, kReadWrite = 2, kNonBlocking = 04000 };
enum { kRealtime = 0, kMonotonic = 1, kBoottime = 7 };
enum { kPollIn = 1 };
enum { kReadable = 1, kWritable = 2, kShared = 1, kPrivate = 2, kAnonymous = 0x20 };

struct timespec {
  i64 seconds, nanoseconds;
};
struct timer_setting {
  struct timespec interval, value;
};
struct pollfd {
  int fd;
  short events, revents;
};

static inline long read_fd(int fd, void* to, size_t size) {
  return SYS(0, fd, to, size, 0);
}
static inline long write_fd(int fd, const void* from, size_t size) {
  return SYS(1, fd, from, size, 0);
}
static inline int open_file(const char* path, int flags) {
  return (int)SYS(2, path, flags, 0, 0);
}
static inline void close_fd(int fd) {
  SYS(3, fd, 0, 0, 0);
}
static inline long poll_fds(struct pollfd* fds, unsigned count) {
  return SYS(7, fds, count, -1, 0);
}
static inline void* map(size_t size, int flags, int fd, u64 offset) {
  return (void*)sys(9, 0, (long)size, kReadable | kWritable, flags, fd, (long)offset);
}
static inline void unmap(void* address, size_t size) {
  SYS(11, address, size, 0, 0);
}
static inline long control(int fd, unsigned long request, void* argument) {
  return SYS(16, fd, request, argument, 0);
}
static inline void pause_for(u64 milliseconds) {
  struct timespec time = {(i64)(milliseconds / 1000), (i64)(milliseconds % 1000 * 1000000)};
  SYS(35, &time, 0, 0, 0);
}
static inline long mount(const char* type, const char* where) {
  return sys(165, (long)"none", (long)where, (long)type, 0, 0, 0);
}
static inline void restart(u32 how) {
  SYS(169, 0xfee1dead, 672274793, how, 0);
}
static inline long set_affinity(u64 mask) {
  return SYS(203, 0, sizeof mask, &mask, 0);
}
static inline long get_affinity(u64* mask) {
  return SYS(204, 0, sizeof *mask, mask, 0);
}
static inline struct timespec clock_now(int clock) {
  struct timespec now = {0, 0};
  SYS(228, clock, &now, 0, 0);
  return now;
}
static inline int timer_create(void) {
  return (int)SYS(283, kMonotonic, 0, 0, 0);
}
static inline void timer_set(int fd, const struct timer_setting* setting) {
  SYS(286, fd, 0, setting, 0);
}
static inline int current_cpu(void) {
  u32 cpu = 0;
  SYS(309, &cpu, 0, 0, 0);
  return (int)cpu;
}
static inline long random_bytes(void* to, size_t size) {
  return SYS(318, to, size, 0, 0);
}
