// A ring-3 number cruncher whose whole state is registers: a linear congruential generator in a general
// register, a counter in an SSE register and one on the x87 stack. Every `steps` (4194304) it prints "hash N
// LCG SSE X87", which a test computes on its own: LCG after n steps of x = x * A + C from 1, SSE = 3 * n, X87
// = 5 * N.
#include "runtime.h"

static u64 steps;

struct checkpoint {
  u64 n, x, sse, x87;
};

static u64 report(u64 address) {
  const struct checkpoint* at = (const struct checkpoint*)address;
  print("hash %u %x %x %x\n", at->n, at->x, at->sse, at->x87);
  return 0;
}

static __attribute__((noreturn)) u64 crunch(u64 unused) {
  (void)unused;
  u64 x = 1, five = 5, three = 3;
  __asm__ volatile("movq %0, %%xmm14; pxor %%xmm15, %%xmm15; fninit; fldz" ::"r"(three));
  for (u64 n = 1;; n++) {
    for (u64 i = 0; i < steps; i++) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      __asm__ volatile("paddq %xmm14, %xmm15");
    }
    struct checkpoint at = {.n = n, .x = x};
    __asm__ volatile("fildll %0; faddp" ::"m"(five));
    __asm__ volatile("fld %%st(0); fistpll %0" : "=m"(at.x87));
    __asm__ volatile("movq %%xmm15, %0" : "=r"(at.sse));
    call_kernel(report, (u64)&at);
  }
}

void guest_main(void) {
  steps = option("steps", 4194304);
  run_user(crunch, 0);
}
