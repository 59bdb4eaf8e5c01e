#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "daemon/chardev/stream_backend.h"

namespace vmmd::chardev {

/// Output into a file: a regular one (created 0600, or truncated), a FIFO, or a character device. No input,
/// as in Cloud Hypervisor.
///
/// A FIFO is opened for reading too: then opening needs no reader, output waits in its buffer (and ours)
/// until one comes, and readers may come and go. A regular file is written on the loop's thread. What the
/// file refuses (ENOSPC, EFBIG) is dropped and counted; later output is tried again.
class FileBackend final : public StreamBackend {
 public:
  static Result<std::unique_ptr<FileBackend>> open(const std::string& path, bool append,
                                                   loop::DeviceLoop& loop);
  ~FileBackend() override;

  [[nodiscard]] std::string path() const override { return path_; }

 private:
  FileBackend(std::string path, UniqueFd fd, loop::DeviceLoop& loop);

  void on_output_error(int error) override;
  void on_input_end(int error) override;

  const std::string path_;
};

}  // namespace vmmd::chardev
