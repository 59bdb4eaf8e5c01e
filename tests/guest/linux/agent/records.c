#include "commands.h"

static u64 mixed(u64 number, u64 seed, u64 word) {
  u64 x = (number * 0x9E3779B97F4A7C15) ^ (seed << 32) ^ word * 0xC2B2AE3D27D4EB4F;
  return x ^ x >> 31;
}

// Number, seed, then a pattern made of both, then a sum of all.
void fill_record(u64* record, u64 words, u64 number, u64 seed) {
  u64 sum = 0;
  record[0] = number;
  record[1] = seed;
  for (u64 i = 2; i < words - 1; i++) record[i] = mixed(number, seed, i);
  for (u64 i = 0; i < words - 1; i++) sum = (sum << 7 | sum >> 57) ^ record[i];
  record[words - 1] = sum;
}

bool record_is_whole(const u64* record, u64* scratch, u64 words, u64 seed) {
  fill_record(scratch, words, record[0], seed);
  for (u64 i = 0; i < words; i++) {
    if (record[i] != scratch[i]) return false;
  }
  return true;
}
