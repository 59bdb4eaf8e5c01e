#pragma once

#include <stop_token>
#include <string>

#include "base/result.h"
#include "daemon/memory/guest_ram.h"

namespace vmmd::vm {

// The pages of a private file mapping that have been written, and so are not the file's any more: into a file
// of a snapshot and back.
//
// The file, little endian: 8 bytes "VMMDPAGE", 8 bytes length of the mapping, one bit for each page that
// follows (the lowest bit of the first byte is the first page's), zeroes up to a multiple of 4096; then those
// pages, in order.

/// Writes them into the empty file `fd`. Nobody writes to the mapping meanwhile. A Conflict, between two
/// pieces, once `cancel` comes.
Status save_private_pages(const memory::Mapping& mapping, int fd, const std::string& name,
                          const std::stop_token& cancel = {});

/// Brings them back into a mapping of the same file. BadRequest, perhaps after some pages, if `fd` is not
/// what the other wrote for a mapping of this length.
Status load_private_pages(const memory::Mapping& mapping, int fd, const std::string& name);

}  // namespace vmmd::vm
