#pragma once

#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "daemon/snapshot/format/problems.h"
#include "proto/snapshot.pb.h"

// The files under a VM's disks. Their content is not part of a snapshot, so a snapshot says which they were.
namespace vmmd::snapshot {

/// A file that a disk of the VM lies in.
struct DiskFile {
  std::string id;    // of the disk; "<id>/overlay" for the file that keeps its writes
  std::string path;  // a regular file or a block device
  std::string role;  // "disk", "layer", "pmem"
  bool readonly = false;
};

/// What the manifest says of a file, and the file, open for syncing it.
struct IdentifiedDisk {
  Disk disk;
  UniqueFd file;
};

/// Size and time of the last change. Of a block device the size only: nobody keeps its time.
Result<IdentifiedDisk> identify_disk(const DiskFile& disk);

/// Compares each file of the machine with the disk of the manifest that it was: of the same size, and not
/// changed since. A disk in `given` (ids) was named for this restore, so only its size must fit: a copy, or
/// the same file by somebody who knows. One that the manifest does not list has to be named, for nothing is
/// known of it; a layer that holds nothing yet need not. Disks of the manifest that the machine does not have
/// are the configuration's business.
void check_disks(const SnapshotManifest& manifest, std::span<const DiskFile> disks,
                 const std::set<std::string>& given, Problems& problems);

}  // namespace vmmd::snapshot
