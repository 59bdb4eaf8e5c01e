// Fills guest RAM with a pattern made of address and seed, and checks it, in ring 3 at native speed.
//   w SEED [FROM_MIB TO_MIB]   write; "ok DIGEST"
//   c SEED [FROM_MIB TO_MIB]   check; "ok DIGEST", or "bad ADDRESS FOUND EXPECTED"
//   m                          "ram BYTES"
// FROM_MIB and TO_MIB are physical addresses; without them it is all RAM but the first 2 MiB, the guest's
// own.
#include "runtime.h"

enum { kOwn = 2 << 20 };

static struct {
  u64 seed, from, to;
  bool write;
  u64 digest;
  u64 bad, found, expected;
} job;

static u64 ram[8][2];  // start and size

static u64 word_at(u64 address, u64 seed) {
  u64 x = (address ^ seed << 40 ^ seed) * 0x9E3779B97F4A7C15;
  return x ^ x >> 29;
}

static u64 run_job(u64 unused) {
  (void)unused;
  u64 digest = job.seed;
  for (unsigned r = 0; r < 8 && ram[r][1] != 0; r++) {
    u64 from = ram[r][0] > job.from ? ram[r][0] : job.from;
    u64 end = ram[r][0] + ram[r][1], to = end < job.to ? end : job.to;
    for (u64 address = from; address < to; address += 8) {
      volatile u64* word = (volatile u64*)address;
      u64 expected = word_at(address, job.seed);
      if (job.write) *word = expected;
      u64 found = *word;
      if (found != expected) {
        job.bad = address;
        job.found = found;
        job.expected = expected;
        return 0;
      }
      digest = (digest << 5 | digest >> 59) ^ found;
    }
  }
  job.digest = digest;
  return 1;
}

void guest_main(void) {
  u64 total = 0, highest = 0;
  for (unsigned i = 0; i < 8 && ram_range(i, &ram[i][0], &ram[i][1]); i++) {
    total += ram[i][1];
    if (ram[i][0] + ram[i][1] > highest) highest = ram[i][0] + ram[i][1];
  }
  map_memory(highest);
  print("pattern ready\n");
  for (;;) {
    char line[128];
    read_line(line, sizeof line);
    const char* p = line + 1;
    if (line[0] == 'm') {
      print("ram %u\n", total);
      continue;
    }
    if (line[0] != 'w' && line[0] != 'c') {
      print("what is \"%s\"?\n", line);
      continue;
    }
    job.write = line[0] == 'w';
    job.seed = parse_number(&p);
    job.from = parse_number(&p) << 20;
    job.to = parse_number(&p) << 20;
    if (job.from < kOwn) job.from = kOwn;
    if (job.to == 0) job.to = highest;
    if (run_user(run_job, 0))
      print("ok %x\n", job.digest);
    else
      print("bad %x %x %x\n", job.bad, job.found, job.expected);
  }
}
