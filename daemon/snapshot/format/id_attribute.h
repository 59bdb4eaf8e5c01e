#pragma once

#include <optional>
#include <string>

#include "base/result.h"

namespace vmmd::snapshot {

/// The id of the snapshot whose memory.bin the file behind `fd` is, or was; as text, hostile. Nothing where
/// it has none or the filesystem keeps no extended attributes.
std::optional<std::string> read_id_attribute(int fd);

/// Marks the file as the memory of snapshot `id`. Best effort: succeeds without a mark where the filesystem
/// or the file's owner does not allow one, unless a wrong mark stays.
Status write_id_attribute(int fd, const std::string& id, const std::string& name);

/// Takes the mark off, whatever it says. Best effort.
void remove_id_attribute(int fd) noexcept;

/// The id of another snapshot that shares this file by a hard link: writing to it would change that
/// snapshot. Callers that map a file as live RAM ask first.
std::optional<std::string> snapshot_sharing_file(int fd);

}  // namespace vmmd::snapshot
