#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "devices/storage/disk.h"
#include "devices/storage/frozen_layer.h"
#include "devices/storage/raw_file.h"
#include "devices/storage/sector_map.h"

namespace vmmd::devices {

/// A disk that leaves its image unchanged: what is written goes to a layer above it, in memory or in a sparse
/// file, and is read from there. Between the two there may be the layer of a snapshot, which is not changed
/// either. Discards and zeroes hide what is below.
///
/// In a file, the map of what the layer holds becomes durable with a flush, after the data it speaks of: the
/// bits of what was written when the flush of the data began, and no others. A crash of the host loses what
/// was not flushed, as a disk's write cache does, and nothing else.
class Overlay final : public Disk {
 public:
  /// Writes stay in memory, at most `limit` bytes of them; then the disk is full (ENOSPC).
  static Result<std::unique_ptr<Overlay>> in_memory(std::unique_ptr<Disk> base,
                                                    std::unique_ptr<FrozenLayer> lower,
                                                    std::optional<std::uint64_t> limit);
  /// Writes stay in the file `path`, which is made if it is not there, and locked. Conflict if it is in use;
  /// BadRequest if it is not the layer of a disk of this size.
  static Result<std::unique_ptr<Overlay>> in_file(std::unique_ptr<Disk> base, const std::string& path);
  ~Overlay() override;
  Overlay(const Overlay&) = delete;
  Overlay& operator=(const Overlay&) = delete;

  [[nodiscard]] const std::string& name() const override { return name_; }
  [[nodiscard]] bool readonly() const override { return false; }
  /// That of the image when it was opened: a layer does not grow.
  [[nodiscard]] Result<std::uint64_t> size() override { return size_; }
  /// The map of a layer in a file is written by system calls; a layer in memory waits for nothing.
  [[nodiscard]] bool holds_up_loop() const override;
  void submit(DiskRequest& request) override;
  void kick() override;
  Status start(EventLoop& loop, std::function<void()> batch_done) override;
  void stop() override;

  /// Writes what is above the image, the snapshot's layer included, into the empty file `out`, called `name`
  /// in messages. Between stop() and start(). Not durable before the caller's fsync. A Conflict soon after
  /// `cancel` comes.
  Status save(int out, const std::string& name, const std::stop_token& cancel = {}) const;

 private:
  struct Part;
  struct Job;
  Overlay(std::string name, std::uint64_t size, std::unique_ptr<Disk> base,
          std::unique_ptr<FrozenLayer> lower, std::unique_ptr<RawFile> upper, SectorMap map);

  Status load_map();
  Status write_map(std::span<const SectorMap::Page> pages);
  void go_on(Job& job);
  void read_some(Job& job);
  void write_all(Job& job);
  void begin_flush();
  void flush_step();
  void end_flush(int error);
  void give(Job& job, Disk& disk, DiskOp op, std::uint64_t offset, std::uint64_t length);
  void part_done(Part& part);
  void complete_later(Job& job);
  void complete(Job& job);
  [[nodiscard]] bool reserve_room(Job& job);
  void append_sources(std::uint64_t first, std::uint64_t count,
                      std::vector<FrozenLayer::Source>& sources) const;

  const std::string name_;
  const std::uint64_t size_;
  std::unique_ptr<Disk> base_;
  std::unique_ptr<FrozenLayer> lower_;   // nullptr: none
  std::unique_ptr<RawFile> lower_file_;  // its bytes
  std::unique_ptr<RawFile> upper_;
  std::uint64_t data_start_ = 0;        // of the disk's first byte in upper_
  std::uint64_t map_start_ = 0;         // of the map in upper_; 0: the layer is in memory
  std::optional<std::uint64_t> limit_;  // bytes
  std::uint64_t reserved_ = 0;          // bytes of memory that writes in flight may take
  SectorMap map_;

  EventLoop* loop_ = nullptr;
  std::function<void()> batch_done_;
  std::vector<std::unique_ptr<Job>> jobs_;  // as many as were ever in flight at once
  std::vector<Job*> free_;
  std::vector<Job*> finished_;  // to be completed on the loop
  std::vector<Job*> completing_;
  bool posted_ = false;

  // Of a layer in a file. One flush at a time; those that come meanwhile share the next one.
  enum class FlushStep : std::uint8_t { Data, Map };
  std::vector<Job*> flushing_;  // the first one's parts are used
  std::vector<Job*> flush_next_;
  std::vector<Job*> flushed_;                 // end_flush()'s, to keep its room
  std::vector<SectorMap::Page> flushed_map_;  // as it was when the flush of the data began
  FlushStep flush_step_ = FlushStep::Data;
};

}  // namespace vmmd::devices
