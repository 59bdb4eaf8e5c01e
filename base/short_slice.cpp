#include "base/short_slice.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>

namespace vmmd {

namespace {

constexpr std::uint64_t kShortest = 100'000;  // nanoseconds; the kernel takes no less

/// struct sched_attr in its first size (linux/sched/types.h cannot stand beside glibc's sched.h).
struct Attributes {
  std::uint32_t size = sizeof(Attributes);
  std::uint32_t policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t runtime = 0;  // of SCHED_OTHER: the slice in nanoseconds, 0 where there is none to set
  std::uint64_t deadline = 0;
  std::uint64_t period = 0;
};

}  // namespace

void ask_for_short_slices() {
  Attributes mine;
  if (::syscall(SYS_sched_getattr, 0, &mine, sizeof mine, 0) != 0) return;
  if (mine.policy != SCHED_OTHER || mine.runtime == 0) return;
  mine.size = sizeof mine;
  mine.runtime = kShortest;
  ::syscall(SYS_sched_setattr, 0, &mine, 0);
}

}  // namespace vmmd
