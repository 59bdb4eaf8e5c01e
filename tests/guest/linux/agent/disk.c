// Disks: numbered, checksummed records of 4 KiB that bypass the page cache, so that what a check reads is
// what the disk has.
#include "commands.h"
#include "text.h"

enum { kRecord = 4096, kWords = kRecord / 8, kDirect = 040000, kMaxWriters = 8 };

struct writers {  // shared with the children
  u64 stop;
  u64 running;
  u64 next[kMaxWriters];  // the number of the record that each writes next
  u64 failed[kMaxWriters];
};

static struct writers* writers;
static u64 writer_count;

static u64 mixed(u64 number, u64 seed, u64 word) {
  u64 x = (number * 0x9E3779B97F4A7C15) ^ (seed << 32) ^ word * 0xC2B2AE3D27D4EB4F;
  return x ^ x >> 31;
}

// Number, seed, then a pattern made of both, then a sum of all.
static void fill(u64* record, u64 number, u64 seed) {
  u64 sum = 0;
  record[0] = number;
  record[1] = seed;
  for (u64 i = 2; i < kWords - 1; i++) record[i] = mixed(number, seed, i);
  for (u64 i = 0; i < kWords - 1; i++) sum = (sum << 7 | sum >> 57) ^ record[i];
  record[kWords - 1] = sum;
}

static bool whole(const u64* record, u64* scratch, u64 seed) {
  fill(scratch, record[0], seed);
  for (u64 i = 0; i < kWords; i++) {
    if (record[i] != scratch[i]) return false;
  }
  return true;
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
    fill(buffer, i, seed);
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
    if (n != kRecord || !whole(buffer, buffer + kWords, seed) || buffer[0] != i) {
      print("disk: record %u bad, read %u, number %u\n", i, (u64)n, buffer[0]);
      return;
    }
  }
  print("disk checked %u\n", count);
}

// Writer w has the slots w * slots and on, and goes round in them for ever.
__attribute__((noreturn)) static void write_for_ever(int fd, u64* buffer, u64 w, u64 seed, u64 slots) {
  while (!__atomic_load_n(&writers->stop, __ATOMIC_ACQUIRE)) {
    u64 number = writers->next[w];
    fill(buffer, number, seed + w);
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
  if (!writers) writers = map(sizeof *writers, kShared | kAnonymous, -1, 0);
  writer_count = count < kMaxWriters ? count : kMaxWriters;
  writers->stop = 0;
  writers->running = writer_count;
  for (u64 w = 0; w < writer_count; w++) {
    writers->next[w] = writers->failed[w] = 0;
    if (SYS(57, 0, 0, 0, 0) != 0) continue;  // fork
    int fd = open_file(path, kReadWrite | kDirect);
    write_for_ever(fd, map(kRecord, kPrivate | kAnonymous, -1, 0), w, seed, slots);
  }
  print("disk writing\n");
}

static void stop_writers(void) {
  __atomic_store_n(&writers->stop, 1, __ATOMIC_RELEASE);
  while (__atomic_load_n(&writers->running, __ATOMIC_ACQUIRE) > 0) pause_for(5);
  u64 total = 0;
  for (u64 w = 0; w < writer_count; w++) {
    total += writers->next[w];
    if (writers->failed[w]) print("disk: writer %u error %u\n", w, writers->failed[w]);
  }
  print("disk stopped %u\n", total);
}

// Each slot has the last record that was written to it, whole.
static void check_writers(int fd, u64* buffer, u64 seed, u64 slots) {
  u64 checked = 0;
  for (u64 w = 0; w < writer_count; w++) {
    u64 next = writers->next[w], oldest = next > slots ? next - slots : 0;
    for (u64 number = oldest; number < next; number++, checked++) {
      long n = read_at(fd, buffer, (w * slots + number % slots) * kRecord);
      if (n == kRecord && whole(buffer, buffer + kWords, seed + w) && buffer[0] == number) continue;
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
      check_writers(fd, buffer, a, c);
    unmap(buffer, 2 * kRecord);
    close_fd(fd);
  }
}
