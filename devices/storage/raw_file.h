#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "devices/storage/bounce.h"
#include "devices/storage/disk.h"

namespace vmmd::devices {

/// A raw image: a regular file or a block device, by io_uring. Where io_uring is forbidden (EPERM, ENOSYS),
/// requests are served one after the other on the disk's loop, which holds up that disk alone.
class RawFile final : public Disk {
 public:
  struct Options {
    bool readonly = false;
    bool direct = false;       // past the host's page cache
    bool use_io_uring = true;  // false: for tests of the other way
    bool nowait = false;       // for tests: io_uring's reads, as kernels before 6.4 asked with O_NONBLOCK
  };
  /// Opens and locks; see lock_image().
  static Result<std::unique_ptr<RawFile>> open(const std::string& path, const Options& options);
  /// Bytes that are ours already, not locked: a memfd, a snapshot's file. `name` is for messages.
  static Result<std::unique_ptr<RawFile>> adopt(UniqueFd fd, const std::string& name, const Options& options);
  ~RawFile() override;
  RawFile(const RawFile&) = delete;
  RawFile& operator=(const RawFile&) = delete;

  [[nodiscard]] const std::string& name() const override { return path_; }
  [[nodiscard]] bool readonly() const override { return options_.readonly; }
  [[nodiscard]] Result<std::uint64_t> size() override;
  Status grow(std::uint64_t bytes) override;
  /// Without io_uring, and with direct I/O, where what does not fit is served by system calls.
  [[nodiscard]] bool holds_up_loop() const override { return ring_ == nullptr || bounce_.has_value(); }
  void submit(DiskRequest& request) override;
  void kick() override;
  void reap() override;
  Status start(EventLoop& loop, std::function<void()> batch_done) override;
  void stop() override;

  /// For those who map it, or look at what it holds.
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] bool uses_io_uring() const { return ring_ != nullptr; }

 private:
  struct Ring;
  RawFile(std::string path, UniqueFd fd, const Options& options);
  Status set_up_ring();
  void prepare(DiskRequest& request);
  void submit_ring();
  void give_up_ring();
  [[nodiscard]] bool must_bounce(DiskRequest& request) const;
  void serve_soon();
  void serve_waiting();
  void complete(DiskRequest& request, int result);
  /// Of an operation by system calls: what io_uring would answer.
  [[nodiscard]] int serve(DiskRequest& request);

  std::string path_;
  UniqueFd fd_;
  Options options_;
  std::optional<Bounce> bounce_;       // of direct I/O
  std::unique_ptr<Ring> ring_;         // nullptr: without io_uring
  std::vector<DiskRequest*> waiting_;  // not yet given to the kernel
  std::vector<DiskRequest*> bounced_;  // beside a ring (direct I/O, EAGAIN), to be served by system calls
  std::vector<DiskRequest*> queued_;   // in the ring, where the kernel has not taken them yet
  std::size_t in_flight_ = 0;          // taken by the kernel
  std::vector<DiskRequest*> serving_;  // serve_waiting()'s, to keep its room
  bool serve_posted_ = false;
  EventLoop* loop_ = nullptr;
  std::function<void()> batch_done_;
  std::unique_ptr<FdWatch> watch_;
};

}  // namespace vmmd::devices
