#pragma once

#include <string>

#include "base/result.h"

namespace vmmd::devices {

/// Locks an open image: shared if it is only read, else exclusive (an open file description lock over the
/// whole file, which ends with the descriptor), so that no two VMs write one image. Conflict, with the path,
/// when somebody holds it. Filesystems without locks go without.
Status lock_image(int fd, const std::string& path, bool readonly);

/// What lock_image() would say now. Takes nothing; a descriptor for reading is enough.
Status probe_image_lock(int fd, const std::string& path, bool readonly);

}  // namespace vmmd::devices
