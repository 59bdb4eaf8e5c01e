#include "daemon/chardev/factory.h"

#include <atomic>
#include <utility>

#include "daemon/chardev/file_backend.h"
#include "daemon/chardev/pty_backend.h"
#include "daemon/chardev/socket_backend.h"
#include "daemon/chardev/tty_backend.h"

namespace vmmd::chardev {

namespace {

class NullBackend final : public devices::CharBackend {
 public:
  void write(std::span<const std::byte> data) override { written_ += data.size(); }
  void set_receiver(devices::CharReceiver*) override {}
  void receiver_ready() override {}
  void drain(std::chrono::milliseconds) override {}
  [[nodiscard]] devices::CharCounters counters() const override { return {.tx_bytes = written_}; }

 private:
  std::atomic<std::uint64_t> written_ = 0;
};

template <class Backend>
Result<std::unique_ptr<devices::CharBackend>> as_backend(Result<std::unique_ptr<Backend>> backend) {
  if (!backend) return tl::make_unexpected(std::move(backend).error());
  return std::unique_ptr<devices::CharBackend>(std::move(*backend));
}

}  // namespace

Result<std::unique_ptr<devices::CharBackend>> make_char_backend(const CharConfig& config,
                                                                loop::DeviceLoop& loop) {
  switch (config.mode) {
    case CharMode::Off:
      return std::unique_ptr<devices::CharBackend>();
    case CharMode::Null:
      return std::unique_ptr<devices::CharBackend>(std::make_unique<NullBackend>());
    case CharMode::Tty:
      return as_backend(TtyBackend::open(loop));
    case CharMode::Pty:
      return as_backend(PtyBackend::open(loop));
    case CharMode::File:
      return as_backend(FileBackend::open(config.path, config.append, loop));
    case CharMode::Socket:
      return as_backend(SocketBackend::open(config.path, loop));
  }
  return fail(ErrorCode::Internal, "unknown character device mode {}", static_cast<int>(config.mode));
}

}  // namespace vmmd::chardev
