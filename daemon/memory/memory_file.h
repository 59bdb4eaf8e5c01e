#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd::memory {

/// Opens `memory.file` as live RAM of `size` bytes and locks it: created (0600), or kept with what it holds;
/// sized if empty, never truncated. Conflict while another VM uses it, and for what is, or may be, the memory
/// of a snapshot. The mark of a snapshot that is gone, or never came to be, is taken off.
Result<UniqueFd> open_memory_file(const std::string& path, std::uint64_t size);

/// flock(2) without waiting, the same kind of lock as on a snapshot's memory.bin (snapshot::lock_memory),
/// because by `link` the file may become one: LOCK_EX while it is live RAM, LOCK_SH while it is only read.
/// Filesystems without locks go without. `name` is for messages.
Status lock_memory_file(int fd, int operation, const std::string& name);

/// Removes the name `path` if the file behind `fd` has it, and another one besides: what is in the file is
/// not lost.
void remove_spare_name(const std::string& path, int fd);

}  // namespace vmmd::memory
