#pragma once

#include <cstdint>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "devices/storage/sector_map.h"

namespace vmmd::devices {

/// What an overlay held when a snapshot was taken: a file that is read and never written. Little endian: a
/// header, a table of extents in the order of their sectors, then their data from the next page on, in the
/// same order. As large as what was written, so copying and checking it costs no more.
class FrozenLayer {
 public:
  /// [sector, sector + sectors) of the disk are the bytes at `offset` of the file, or zeroes.
  struct Extent {
    std::uint64_t sector = 0;
    std::uint64_t sectors = 0;
    std::uint64_t offset = 0;  // bytes; 0: zeroes
    bool operator==(const Extent&) const = default;
  };

  /// Checks all of the table: the file is hostile. BadRequest, with `name`, if it is not the layer of a disk
  /// of `disk_size` bytes.
  static Result<std::unique_ptr<FrozenLayer>> open(UniqueFd fd, std::string name, std::uint64_t disk_size);

  /// What of [first, first + limit) is here: the extent's part that begins at `first`, or how far it is to
  /// the next one. `limit` above 0.
  struct Run {
    bool here = false;
    std::uint64_t sectors = 0;
    std::uint64_t offset = 0;  // as Extent's
  };
  [[nodiscard]] Run run(std::uint64_t first, std::uint64_t limit) const;

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] const std::string& name() const { return name_; }

  /// Writes a layer into the empty file `out`. `sources[i].fd` has the bytes of `extents[i]` at its
  /// `offset`; zero extents have -1. Not durable before the caller's fsync. A Conflict, between two pieces,
  /// once `stop` comes.
  struct Source {
    Extent extent;
    int fd = -1;
    std::uint64_t offset = 0;  // in fd, bytes
  };
  static Status write(int out, const std::string& name, std::uint64_t disk_size,
                      const std::vector<Source>& sources, const std::stop_token& stop = {});

 private:
  FrozenLayer(UniqueFd fd, std::string name, std::vector<Extent> extents)
      : fd_(std::move(fd)), name_(std::move(name)), extents_(std::move(extents)) {}

  UniqueFd fd_;
  std::string name_;
  std::vector<Extent> extents_;
};

}  // namespace vmmd::devices
