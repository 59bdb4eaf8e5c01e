#pragma once

#include <string>

#include "base/result.h"

namespace vmmd::api {

// Checks of the host's files that vm.create makes so that vm.boot does not fail later. None of them creates,
// changes or waits for anything; whoever uses the file checks again. All errors are BadRequest and name the
// path.

/// A regular file that this process can open for reading.
Status check_readable_file(const std::string& path);

/// A file that can be written: a regular file, FIFO or character device with permission, or none yet in a
/// directory where one can be made. `regular_only` leaves out the FIFO and the device.
Status check_writable_file(const std::string& path, bool regular_only);

/// A Unix socket that can be bound at `path`: short enough for sockaddr_un, its directory there and writable,
/// and nothing but a socket in its place.
Status check_socket_path(const std::string& path);

}  // namespace vmmd::api
