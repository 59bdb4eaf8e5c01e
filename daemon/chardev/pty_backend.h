#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "daemon/chardev/stream_backend.h"

namespace vmmd::chardev {

/// A pseudo-terminal of our own; the user opens path().
///
/// Coming and going of readers. Linux tells the master when the last reader leaves (EPOLLHUP, EIO from then
/// on), but nothing tells it when one opens the slave again: that is why VMMs poll here, or keep the slave
/// open themselves and fill the kernel's buffer with stale output. We watch the slave's inode with inotify
/// instead. On IN_OPEN and IN_CLOSE, poll() on the master says whether anybody is there: if so, input and
/// output open; EIO closes them again, and from then on no wait is outstanding on the master, so that its
/// lasting EPOLLHUP wakes nobody. In between the newest 64 KiB of output wait for the next reader. What a
/// reader had not read when it left is gone with the kernel's buffer.
///
/// Nor does anything tell the master when its reader's terminal changes its size (the signal goes to the
/// slave's side): we look when a reader comes, and with each input.
///
/// Where inotify has no instances left for this user, the slave stays open and the kernel's buffer fills.
class PtyBackend final : public StreamBackend {
 public:
  static Result<std::unique_ptr<PtyBackend>> open(loop::DeviceLoop& loop);
  ~PtyBackend() override;

  [[nodiscard]] std::string path() const override { return path_; }

 private:
  PtyBackend(loop::DeviceLoop& loop, std::string path, UniqueFd master);

  void watch(UniqueFd inotify);
  void hold(UniqueFd slave);
  void on_watch_event();
  void look_for_reader();
  [[nodiscard]] bool hung_up() const;
  void look_at_size();
  void on_input() override { look_at_size(); }
  void on_output_error(int error) override;
  void on_input_end(int error) override;

  const std::string path_;
  const std::shared_ptr<Descriptor> master_;
  std::shared_ptr<Descriptor> inotify_;
  UniqueFd held_slave_;
};

}  // namespace vmmd::chardev
