#include "base/thread_affinity.h"

#include <sched.h>

#include <fmt/ranges.h>

namespace vmmd {

Status bind_thread(pthread_t thread, const std::vector<unsigned>& cpus, std::string_view who) {
  if (cpus.empty()) return {};
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const unsigned cpu : cpus) {
    if (cpu >= CPU_SETSIZE) return fail(ErrorCode::BadRequest, "host CPU {} does not exist", cpu);
    CPU_SET(cpu, &set);
  }
  const int error = ::pthread_setaffinity_np(thread, sizeof set, &set);
  if (error == 0) return {};
  return fail_errno(ErrorCode::BadRequest, error, "{} cannot run on the host's CPUs {}", who,
                    fmt::join(cpus, ", "));
}

}  // namespace vmmd
