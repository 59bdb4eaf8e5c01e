#pragma once

#include <memory>
#include <vector>

namespace vmmd::control {

/// Keeps what a thread that hangs in the host may still use, as it is, until the process ends: no destructor
/// runs. The VM thread's.
void leave_behind(std::vector<std::shared_ptr<void>> things);

/// Whether such a thread may wake at any moment: then the process must end without destroying its globals.
[[nodiscard]] bool anything_left_behind();

}  // namespace vmmd::control
