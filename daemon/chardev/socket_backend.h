#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "base/unix_socket.h"
#include "daemon/chardev/stream_backend.h"

namespace vmmd::chardev {

/// A listening Unix stream socket (0600) that serves one client at a time; others wait in the backlog until
/// it leaves. (Were a newcomer to take over, probing whether a socket is alive would throw out its user.) The
/// newest 64 KiB of output wait for the next client. A client that only ends its own output
/// (`echo x | socat - UNIX:…`) still gets ours; what a client sent before it left reaches the guest.
class SocketBackend final : public StreamBackend {
 public:
  /// A socket that nobody listens on any more is replaced; a live one, or any other file, is a Conflict.
  static Result<std::unique_ptr<SocketBackend>> open(const std::string& path, loop::DeviceLoop& loop);
  ~SocketBackend() override;

  [[nodiscard]] std::string path() const override { return file_->path(); }

 private:
  SocketBackend(std::unique_ptr<UnixListener> file, loop::DeviceLoop& loop);

  void accept_client();
  void wait_for_client();
  void drop_client();
  void on_output_error(int error) override;
  void on_input_end(int error) override;

  const std::unique_ptr<UnixListener> file_;
  const std::shared_ptr<Descriptor> listener_;
  std::shared_ptr<Descriptor> client_;  // (loop)
  Acceptor acceptor_;                   // (loop)
};

}  // namespace vmmd::chardev
