#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"

namespace vmmd {

/// open(2) with O_CLOEXEC added; retries EINTR. Errors name the path: ENOENT is NotFound, the rest
/// BadRequest.
Result<UniqueFd> open_file(const std::filesystem::path& path, int flags, mode_t mode = 0);

/// Length in bytes of a regular file (or a block device's size). Anything else is BadRequest.
Result<std::uint64_t> file_size(int fd, const std::string& name);

/// Reads exactly `out.size()` bytes at `offset`; a shorter file is an error that says how much was missing.
Status read_exact_at(int fd, std::span<std::byte> out, std::uint64_t offset, const std::string& name);

/// Writes all bytes at `offset`, whatever short writes and EINTR come in between.
Status write_all_at(int fd, std::span<const std::byte> data, std::uint64_t offset, const std::string& name);

/// Reads a whole small file. More than `limit` bytes is TooLarge; the limit is checked before allocating.
Result<std::string> read_small_file(int fd, std::uint64_t limit, const std::string& name);

}  // namespace vmmd
