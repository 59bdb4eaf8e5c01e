#include "commands.h"

#include "text.h"

static u64 word_at(u64 offset, u64 seed) {
  u64 x = (offset ^ seed << 40 ^ seed) * 0x9E3779B97F4A7C15;
  return x ^ x >> 29;
}

void fill_pattern(u64* words, u64 size, u64 seed) {
  for (u64 i = 0; i < size / 8; i++) words[i] = word_at(i * 8, seed);
}

void check_pattern(const u64* words, u64 size, u64 seed) {
  u64 digest = seed;
  for (u64 i = 0; i < size / 8; i++) {
    if (words[i] != word_at(i * 8, seed)) {
      print("bad %x\n", i * 8);
      return;
    }
    digest = (digest << 5 | digest >> 59) ^ words[i];
  }
  print("ok %x\n", digest);
}

void transfer(const char* name, int stream, bool sending, u64 seed, u64 size) {
  u8* bytes = map(size, kPrivate | kAnonymous, -1, 0);
  if (sending) fill_pattern((u64*)bytes, size, seed);
  for (u64 done = 0; done < size;) {
    long n =
        sending ? write_fd(stream, bytes + done, size - done) : read_fd(stream, bytes + done, size - done);
    if (n <= 0) {
      print("%s: error %u after %u\n", name, (u64)-n, done);
      unmap(bytes, size);
      return;
    }
    done += (u64)n;
  }
  check_pattern((u64*)bytes, size, seed);
  unmap(bytes, size);
}

static void pattern(bool write, u64* words, u64 size, u64 seed) {
  if (write) fill_pattern(words, size, seed);
  check_pattern(words, size, seed);
}

static bool is_error(const void* address) {
  return (u64)address > (u64)-4096;
}

static void memory(char* line) {
  static u64* words;
  static u64 size;
  bool write = same(next_word(&line), "write");
  u64 seed = next_number(&line), wanted = next_number(&line) << 20;
  if (write) {
    if (size > 0) unmap(words, size);
    size = wanted;
    words = map(size, kPrivate | kAnonymous, -1, 0);
    if (is_error(words)) size = 0;
  }
  if (size == 0)
    print("mem: no memory\n");
  else
    pattern(write, words, size, seed);
}

static void physical(char* line) {
  bool write = same(next_word(&line), "write");
  u64 seed = next_number(&line), at = next_number(&line) << 20, size = next_number(&line) << 20;
  int fd = open_file("/dev/mem", kReadWrite);
  u64* words = map(size, kShared, fd, at);
  close_fd(fd);
  if (is_error(words)) {
    print("phys: cannot map it\n");
    return;
  }
  pattern(write, words, size, seed);
  unmap(words, size);
}

static void rtc(void) {
  struct {
    int second, minute, hour, day, month, year, unused[3];
  } time = {0};
  int fd = open_file("/dev/rtc0", kReadOnly);
  long result = control(fd, 0x80247009 /* RTC_RD_TIME */, &time);
  close_fd(fd);
  if (result != 0) {
    print("rtc: error %u\n", (u64)-result);
    return;
  }
  const u64 values[] = {(u64)time.month + 1, (u64)time.day, (u64)time.hour, (u64)time.minute,
                        (u64)time.second};
  char text[] = "-00-00 00:00:00";
  for (int i = 0; i < 5; i++) {
    text[1 + i * 3] = (char)('0' + values[i] / 10 % 10);
    text[2 + i * 3] = (char)('0' + values[i] % 10);
  }
  print("rtc %u%s\n", (u64)time.year + 1900, text);
}

static void cpus(void) {
  u64 all = 0, found = 0;
  get_affinity(&all);
  for (int i = 0; i < 64; i++) {
    if (!(all >> i & 1) || set_affinity(1ull << i) != 0) continue;
    found += current_cpu() == i;
  }
  set_affinity(all);
  print("cpus %u\n", found);
}

static void sleep_timer(u64 milliseconds) {
  struct timespec before = clock_now(kMonotonic);
  pause_for(milliseconds);
  struct timespec after = clock_now(kMonotonic);
  i64 nanoseconds = (after.seconds - before.seconds) * 1000000000 + after.nanoseconds - before.nanoseconds;
  print("slept %u\n", (u64)nanoseconds / 1000);
}

static void random_number(void) {
  u64 bytes[2] = {0, 0};
  random_bytes(bytes, sizeof bytes);
  print("random %x-%x\n", bytes[0], bytes[1]);
}

static void terminal_size(void) {
  struct {
    uint16_t rows, columns, unused[2];
  } size = {0};
  control(0, 0x5413 /* TIOCGWINSZ */, &size);
  print("size %u %u\n", (u64)size.columns, (u64)size.rows);
}

static void cat(const char* path) {
  char text[4096];
  int fd = open_file(path, kReadOnly);
  if (fd < 0) print("cat: error %u\n", (u64)-fd);
  for (u64 left = sizeof text; fd >= 0 && left > 0;) {
    long n = read_fd(fd, text, left);
    if (n <= 0) break;
    print_raw(text, (size_t)n);
    left -= (u64)n;
  }
  close_fd(fd);
  print("end\n");
}

// The first bytes of a file or device, as hexadecimal digits.
static void hex(char* line) {
  enum { kMost = 64 };
  u8 bytes[kMost];
  char digits[2 * kMost + 1];
  const char* path = next_word(&line);
  u64 wanted = next_number(&line);
  int fd = open_file(path, kReadOnly);
  long n = fd < 0 ? fd : read_fd(fd, bytes, wanted < kMost ? wanted : kMost);
  close_fd(fd);
  if (n < 0) {
    print("hex: error %u\n", (u64)-n);
    return;
  }
  for (long i = 0; i < n; ++i) {
    digits[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
    digits[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
  }
  digits[2 * n] = 0;
  print("hex %s\n", digits);
}

static void put(char* line, bool whole_line) {
  const char* path = next_word(&line);
  size_t length = length_of(line);
  if (whole_line) line[length++] = '\n';  // where its end was
  int fd = open_file(path, kWriteOnly);
  long n = fd < 0 ? fd : write_fd(fd, line, length);
  close_fd(fd);
  if (n < 0)
    print("put: error %u\n", (u64)-n);
  else
    print("put %u\n", (u64)n);
}

static void file(char* line) {
  bool write = same(next_word(&line), "write");
  const char* path = next_word(&line);
  u64 seed = next_number(&line), at = next_number(&line) << 10, size = next_number(&line) << 10;
  u64* words = map(size, kPrivate | kAnonymous, -1, 0);
  int fd = open_file(path, write ? kWriteOnly : kReadOnly);
  long n = fd;
  if (write) fill_pattern(words, size, seed);
  for (u64 done = 0; n >= 0 && done < size; done += (u64)n) {
    n = SYS(write ? 18 : 17 /* pwrite64, pread64 */, fd, (u8*)words + done, size - done, at + done);
    if (n == 0) n = -5;  // EIO: its end
  }
  if (n >= 0 && write) n = SYS(74 /* fsync */, fd, 0, 0, 0);
  close_fd(fd);
  if (n < 0)
    print("file: error %u\n", (u64)-n);
  else
    check_pattern(words, size, seed);
  unmap(words, size);
}

// A record of /dev/kmsg: "priority,sequence,microseconds,flags;message\n continuation lines".
static void dmesg(const char* word) {
  char record[1024];
  int fd = open_file("/dev/kmsg", kReadOnly | kNonBlocking);
  for (unsigned printed = 0; printed < 40;) {
    long n = read_fd(fd, record, sizeof record);
    if (n == -32 /* EPIPE: overwritten meanwhile */) continue;
    if (n <= 0) break;
    size_t start = 0, end;
    while (start < (size_t)n && record[start] != ';') start++;
    for (end = ++start; end < (size_t)n && record[end] != '\n'; end++) {
    }
    if (end > (size_t)n || !contains(record + start, end - start, word)) continue;
    print_raw(record + start, end - start);
    print_raw("\n", 1);
    printed++;
  }
  close_fd(fd);
  print("end\n");
}

void set_tick(struct agent* agent, u64 milliseconds) {
  struct timespec every = {(i64)(milliseconds / 1000), (i64)(milliseconds % 1000 * 1000000)};
  struct timer_setting setting = {every, every};
  timer_set(agent->tick_timer, &setting);
}

void power_off(void) {
  print("power off\n");
  SYS(162, 0, 0, 0, 0);  // sync
  restart(0x4321fedc);
}

void run_command(struct agent* agent, char* line) {
  const char* word = next_word(&line);
  if (same(word, "echo")) {
    print("echo %s\n", line);
  } else if (same(word, "count")) {
    print("count %u\n", agent->count);
  } else if (same(word, "tick")) {
    set_tick(agent, next_number(&line));
  } else if (same(word, "mem")) {
    memory(line);
  } else if (same(word, "phys")) {
    physical(line);
  } else if (same(word, "time")) {
    print("time realtime %t monotonic %t boottime %t\n", clock_now(kRealtime), clock_now(kMonotonic),
          clock_now(kBoottime));
  } else if (same(word, "rtc")) {
    rtc();
  } else if (same(word, "random")) {
    random_number();
  } else if (same(word, "cpus")) {
    cpus();
  } else if (same(word, "pin")) {
    print("pin %u\n", (u64)-set_affinity(1ull << next_number(&line)));
  } else if (same(word, "uptime")) {
    print("uptime %t\n", clock_now(kBoottime));
  } else if (same(word, "sleep-timer")) {
    sleep_timer(next_number(&line));
  } else if (same(word, "cat")) {
    cat(next_word(&line));
  } else if (same(word, "size")) {
    terminal_size();
  } else if (same(word, "hex")) {
    hex(line);
  } else if (same(word, "put") || same(word, "say")) {
    put(line, same(word, "say"));
  } else if (same(word, "disk")) {
    disk(line);
  } else if (same(word, "mount")) {
    const char* device = next_word(&line);
    const char* where = next_word(&line);
    const char* type = next_word(&line);
    SYS(83, where, 0755, 0, 0);  // mkdir
    print("mount %u\n", (u64)-sys(165, (long)device, (long)where, (long)type, 0, 0, 0));
  } else if (same(word, "dmesg")) {
    dmesg(next_word(&line));
  } else if (same(word, "file")) {
    file(line);
  } else if (same(word, "vsock")) {
    vsock(line);
  } else if (same(word, "net")) {
    net(line);
  } else if (same(word, "traffic")) {
    run_traffic(line);
  } else if (same(word, "poweroff")) {
    power_off();
  } else if (same(word, "reboot")) {
    print("reboot\n");
    restart(0x01234567);
  } else {
    print("agent: what is \"%s\"?\n", word);
  }
}
