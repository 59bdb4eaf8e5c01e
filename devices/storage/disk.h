#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "devices/event_loop.h"

namespace vmmd::devices {

enum class DiskOp : std::uint8_t { Read, Write, Flush, Discard, WriteZeroes };

/// One request. It belongs to the caller, which keeps it until it is done and uses it again, so that a
/// request allocates nothing.
struct DiskRequest {
  DiskOp op = DiskOp::Read;
  bool sync = false;         // of a write: done when it is durable
  bool unmap = false;        // of WriteZeroes: may give the space back
  std::uint64_t offset = 0;  // bytes
  std::uint64_t length = 0;  // bytes; of reads and writes the sum of `buffers`, above 0
  std::vector<iovec> buffers;
  int error = 0;  // errno, once done
  void (*done)(DiskRequest& request) = nullptr;

  // For the disk, while it has the request.
  std::size_t first_buffer = 0;
  std::uint64_t progress = 0;  // bytes
};

/// What is under a block device: a file, or a layer over another disk. Everything on the device's loop, but
/// for the constants.
///
/// Requests may be done in any order. A flush covers what was done before it was submitted.
class Disk {
 public:
  virtual ~Disk() = default;
  /// For messages.
  [[nodiscard]] virtual const std::string& name() const = 0;
  [[nodiscard]] virtual bool readonly() const = 0;
  /// Bytes; asks the file again, so it may have grown.
  [[nodiscard]] virtual Result<std::uint64_t> size() = 0;
  /// Makes it larger, to `bytes`, more than size(). On any thread. BadRequest if it cannot grow.
  virtual Status grow(std::uint64_t /*bytes*/) {
    return fail(ErrorCode::BadRequest, "{} cannot grow: a disk with an overlay is as long as its image was",
                name());
  }
  /// Whether its requests wait for the host on the loop's thread: then that should be no other device's.
  /// Constant, but for a host that is so short of memory that it takes io_uring away.
  [[nodiscard]] virtual bool holds_up_loop() const = 0;

  /// Takes a request, within size(). `done` is never called in here.
  virtual void submit(DiskRequest& request) = 0;
  /// Starts what was submitted, in one go. `done` is never called in here either.
  virtual void kick() = 0;
  /// Calls `done` for what is complete by now, rather than in a later turn of the loop: much of what is in
  /// the host's page cache is complete when kick() returns. No batch_done follows. Not within a `done`.
  virtual void reap() {}

  /// Before the first submit(), and after stop(): completions come on `loop`, and after each batch of them
  /// `batch_done`, where the device interrupts once for all.
  virtual Status start(EventLoop& loop, std::function<void()> batch_done) = 0;
  /// On the loop, when nothing is in flight.
  virtual void stop() = 0;
};

}  // namespace vmmd::devices
