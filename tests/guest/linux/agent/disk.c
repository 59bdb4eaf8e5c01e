// Disks: numbered, checksummed records of 4 KiB that bypass the page cache, so that what a check reads is
// what the disk has.
#include "commands.h"
#include "text.h"

enum {
  kRecord = 4096,
  kWords = kRecord / 8,
  kDirect = 040000,
  kMaxWriters = 8,
  kMaxDisks = 2,
  kMaxPath = 32
};

struct writers {  // shared with the children
  u64 stop;
  u64 running;
  u64 next[kMaxWriters];  // the number of the record that each writes next
  u64 failed[kMaxWriters];
};

static struct {
  char path[kMaxPath];
  struct writers* writers;
  u64 count;
} disks[kMaxDisks];

// Of the disk that has been written to by that path; an empty place if there is none; -1: no place.
static int disk_of(const char* path) {
  for (int d = 0; d < kMaxDisks; d++) {
    if (disks[d].path[0] == 0 || same(disks[d].path, path)) return d;
  }
  return -1;
}

static long write_at(int fd, const void* bytes, u64 offset) {
  return SYS(18, fd, bytes, kRecord, offset);  // pwrite64
}
static long read_at(int fd, void* bytes, u64 offset) {
  return SYS(17, fd, bytes, kRecord, offset);  // pread64
}
static long sync_data(int fd) {
  return SYS(75, fd, 0, 0, 0);  // fdatasync
}

static void write_records(int fd, u64* buffer, u64 seed, u64 first, u64 count) {
  for (u64 i = first; i < first + count; i++) {
    fill_record(buffer, kWords, i, seed);
    long n = write_at(fd, buffer, i * kRecord);
    if (n != kRecord) {
      print("disk: record %u error %u\n", i, (u64)-n);
      return;
    }
  }
  long error = sync_data(fd);
  if (error != 0)
    print("disk: flush error %u\n", (u64)-error);
  else
    print("disk wrote %u\n", count);
}

static void check_records(int fd, u64* buffer, u64 seed, u64 first, u64 count) {
  for (u64 i = first; i < first + count; i++) {
    long n = read_at(fd, buffer, i * kRecord);
    if (n != kRecord || !record_is_whole(buffer, buffer + kWords, kWords, seed) || buffer[0] != i) {
      print("disk: record %u bad, read %u, number %u\n", i, (u64)n, buffer[0]);
      return;
    }
  }
  print("disk checked %u\n", count);
}

// Writer w has the slots w * slots and on, and goes round in them for ever.
__attribute__((noreturn)) static void write_for_ever(struct writers* writers, int fd, u64* buffer, u64 w,
                                                     u64 seed, u64 slots) {
  while (!__atomic_load_n(&writers->stop, __ATOMIC_ACQUIRE)) {
    u64 number = writers->next[w];
    fill_record(buffer, kWords, number, seed + w);
    long n = write_at(fd, buffer, (w * slots + number % slots) * kRecord);
    if (n == kRecord && number % 16 == 15) n = sync_data(fd) == 0 ? kRecord : -5;
    if (n != kRecord) {
      writers->failed[w] = (u64)-n;
      break;
    }
    __atomic_store_n(&writers->next[w], number + 1, __ATOMIC_RELEASE);
  }
  __atomic_sub_fetch(&writers->running, 1, __ATOMIC_ACQ_REL);
  for (;;) SYS(60, 0, 0, 0, 0);  // exit
}

static void start_writers(const char* path, u64 seed, u64 count, u64 slots) {
  int d = disk_of(path);
  if (d < 0 || length_of(path) >= kMaxPath) {
    print("disk: no place for %s\n", path);
    return;
  }
  for (u64 i = 0; i <= length_of(path); i++) disks[d].path[i] = path[i];
  if (!disks[d].writers) disks[d].writers = map(sizeof(struct writers), kShared | kAnonymous, -1, 0);
  struct writers* writers = disks[d].writers;
  disks[d].count = count < kMaxWriters ? count : kMaxWriters;
  writers->stop = 0;
  writers->running = disks[d].count;
  for (u64 w = 0; w < disks[d].count; w++) {
    writers->next[w] = writers->failed[w] = 0;
    if (SYS(57, 0, 0, 0, 0) != 0) continue;  // fork
    int fd = open_file(path, kReadWrite | kDirect);
    write_for_ever(writers, fd, map(kRecord, kPrivate | kAnonymous, -1, 0), w, seed, slots);
  }
  print("disk writing\n");
}

static void stop_writers(void) {
  u64 total = 0;
  for (int d = 0; d < kMaxDisks && disks[d].writers; d++)
    __atomic_store_n(&disks[d].writers->stop, 1, __ATOMIC_RELEASE);
  for (int d = 0; d < kMaxDisks && disks[d].writers; d++) {
    struct writers* writers = disks[d].writers;
    while (__atomic_load_n(&writers->running, __ATOMIC_ACQUIRE) > 0) pause_for(5);
    for (u64 w = 0; w < disks[d].count; w++) {
      total += writers->next[w];
      if (writers->failed[w])
        print("disk: %s writer %u error %u\n", disks[d].path, w, writers->failed[w]);
      else
        print("disk %s writer %u next %u\n", disks[d].path, w, writers->next[w]);
    }
  }
  print("disk stopped %u\n", total);
}

// Each slot has the last record that was written to it, whole.
static void check_writers(const char* path, int fd, u64* buffer, u64 seed, u64 slots) {
  u64 checked = 0;
  int d = disk_of(path);
  for (u64 w = 0; d >= 0 && w < disks[d].count; w++) {
    u64 next = disks[d].writers->next[w], oldest = next > slots ? next - slots : 0;
    for (u64 number = oldest; number < next; number++, checked++) {
      long n = read_at(fd, buffer, (w * slots + number % slots) * kRecord);
      if (n == kRecord && record_is_whole(buffer, buffer + kWords, kWords, seed + w) && buffer[0] == number)
        continue;
      print("disk: writer %u record %u bad, read %u, number %u\n", w, number, (u64)n, buffer[0]);
      return;
    }
  }
  print("disk checked %u\n", checked);
}

static void trim(const char* directory) {
  u64 range[3] = {0, ~0ull, 0};
  int fd = open_file(directory, kReadOnly);
  long error = control(fd, 0xc0185879 /* FITRIM */, range);
  close_fd(fd);
  if (error != 0)
    print("disk: trim error %u\n", (u64)-error);
  else
    print("disk trimmed %u\n", range[1]);
}

static void discard(const char* path, u64 first, u64 count) {
  u64 range[2] = {first * kRecord, count * kRecord};
  int fd = open_file(path, kReadWrite);
  long error = control(fd, 0x1277 /* BLKDISCARD */, range);
  close_fd(fd);
  print("disk discarded %u\n", (u64)-error);
}

void disk(char* line) {
  const char* word = next_word(&line);
  const char* path = next_word(&line);
  u64 a = next_number(&line), b = next_number(&line), c = next_number(&line);
  if (same(word, "start")) {
    start_writers(path, a, b, c);
  } else if (same(word, "stop")) {
    stop_writers();
  } else if (same(word, "trim")) {
    trim(path);
  } else if (same(word, "discard")) {
    discard(path, a, b);
  } else {
    bool writes = same(word, "write");
    int fd = open_file(path, (writes ? kReadWrite : kReadOnly) | kDirect);
    if (fd < 0) {
      print("disk: open error %u\n", (u64)-fd);
      return;
    }
    u64* buffer = map(2 * kRecord, kPrivate | kAnonymous, -1, 0);
    if (writes)
      write_records(fd, buffer, a, b, c);
    else if (same(word, "check"))
      check_records(fd, buffer, a, b, c);
    else
      check_writers(path, fd, buffer, a, c);
    unmap(buffer, 2 * kRecord);
    close_fd(fd);
  }
}
