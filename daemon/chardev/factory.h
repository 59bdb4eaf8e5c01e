#pragma once

#include <memory>

#include "base/result.h"
#include "daemon/chardev/char_config.h"
#include "daemon/loop/device_loop.h"
#include "devices/char_backend.h"

namespace vmmd::chardev {

/// Opens the host's end of a character device. `loop` outlives it.
///
/// | mode   | output                                                        | input              |
/// |--------|---------------------------------------------------------------|--------------------|
/// | Off    | no device: the result is a null pointer                       |                    |
/// | Null   | dropped                                                       | none               |
/// | Tty    | vmmd's stdout                                                 | vmmd's stdin       |
/// | Pty    | a new pty, path() names it; newest 64 KiB kept for a reader   | from the reader    |
/// | File   | regular file (created 0600 or truncated), FIFO, char device   | none               |
/// | Socket | one client of a listening Unix socket; 64 KiB kept for it     | from the client    |
///
/// Conflict where a path is in use (live socket, or not a socket at all) or stdin/stdout already serve
/// another device; NotFound and BadRequest as open_file().
Result<std::unique_ptr<devices::CharBackend>> make_char_backend(const CharConfig& config,
                                                                loop::DeviceLoop& loop);

}  // namespace vmmd::chardev
