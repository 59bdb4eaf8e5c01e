#include "daemon/chardev/socket_backend.h"

#include <utility>

namespace vmmd::chardev {

namespace {

constexpr int kBacklog = 8;

}  // namespace

Result<std::unique_ptr<SocketBackend>> SocketBackend::open(const std::string& path, loop::DeviceLoop& loop) {
  VMMD_ASSIGN(auto listener, UnixListener::open(path, kBacklog));
  std::unique_ptr<SocketBackend> backend(new SocketBackend(std::move(listener), loop));
  if (!backend->listener_->is_open())
    return fail(ErrorCode::Internal, "cannot wait for clients of socket {}: epoll takes no more", path);
  return backend;
}

SocketBackend::SocketBackend(std::unique_ptr<UnixListener> file, loop::DeviceLoop& loop)
    : StreamBackend(loop, NoPeer::Keep),
      file_(std::move(file)),
      listener_(make_descriptor(file_->take_fd())) {
  later([this] { accept_client(); });
}

SocketBackend::~SocketBackend() {
  shut_down();
}

void SocketBackend::wait_for_client() {
  listener_->async_wait(Descriptor::wait_read, guarded([this] { accept_client(); }));
}

void SocketBackend::accept_client() {
  if (client_ != nullptr) return;
  auto client = acceptor_.accept(listener_->native_handle());
  if (!client) return;
  if (!*client) return wait_for_client();
  client_ = make_descriptor(std::move(*client));
  // Tells when the client has closed both directions, also while we neither read nor write.
  client_->async_wait(Descriptor::wait_error, guarded([this, who = std::weak_ptr(client_)] {
                        if (client_ != nullptr && who.lock() == client_) drop_client();
                      }));
  open_output(client_);
  if (client_ != nullptr) open_input(client_);
}

void SocketBackend::drop_client() {
  if (client_ == nullptr) return;
  salvage_input();
  close_input();
  close_output();
  client_ = nullptr;
  later([this] { accept_client(); });
}

void SocketBackend::on_output_error(int) {
  drop_client();
}

void SocketBackend::on_input_end(int error) {
  if (error != 0) {
    drop_client();
  } else {
    close_input();  // perhaps only its output has ended; wait_error tells the rest
  }
}

}  // namespace vmmd::chardev
