#pragma once

#include <pthread.h>

#include <string_view>
#include <vector>

#include "base/result.h"

namespace vmmd {

/// Lets a thread run on these CPUs of the host alone; none named: wherever it may already. BadRequest, naming
/// `who`, if the host lets it run on none of them or has no such CPU.
Status bind_thread(pthread_t thread, const std::vector<unsigned>& cpus, std::string_view who);

}  // namespace vmmd
