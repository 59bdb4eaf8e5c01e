#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "daemon/chardev/stream_backend.h"

namespace vmmd::chardev {

/// vmmd's own stdin and stdout: a terminal, pipes, files. One per process.
///
/// A terminal in whose foreground we are becomes raw, Ctrl-C included (it belongs to the guest), except that
/// output processing stays on: log lines on the same terminal keep their line starts. Its settings come back
/// when the backend goes, and at exit(). In the background the terminal is left alone and not read.
///
/// O_NONBLOCK belongs to the open file, which we share with the shell: so stdin and stdout are opened anew
/// through /proc, and only where that cannot be (sockets) their own flag is set, and reset at the end.
/// The end of stdin ends input only, an error of stdout ends output only. SIGWINCH is ours while it is open.
class TtyBackend final : public StreamBackend {
 public:
  static Result<std::unique_ptr<TtyBackend>> open(loop::DeviceLoop& loop);
  ~TtyBackend() override;

 private:
  explicit TtyBackend(loop::DeviceLoop& loop);

  void watch_size();
  void look_at_size();
  void on_output_error(int error) override;
  void on_input_end(int error) override;

  std::shared_ptr<Descriptor> resized_;  // an eventfd that SIGWINCH makes readable
};

}  // namespace vmmd::chardev
