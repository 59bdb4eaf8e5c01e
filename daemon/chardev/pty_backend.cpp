#include "daemon/chardev/pty_backend.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <utility>

#include "base/file.h"

namespace vmmd::chardev {

namespace {

/// No echo, no line editing, no translation: the guest's terminal driver does all that. The settings stay
/// with the pty as long as its master is open.
Status make_raw(int fd, const std::string& path) {
  termios settings = {};
  if (::tcgetattr(fd, &settings) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot read the settings of {}", path);
  }
  ::cfmakeraw(&settings);
  if (::tcsetattr(fd, TCSANOW, &settings) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot make {} raw", path);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<PtyBackend>> PtyBackend::open(loop::DeviceLoop& loop) {
  UniqueFd master(::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  if (!master) return fail_errno(ErrorCode::Internal, errno, "cannot open a pseudo-terminal");
  std::array<char, 64> name = {};
  if (::unlockpt(master.get()) != 0 || ::ptsname_r(master.get(), name.data(), name.size()) != 0) {
    return fail_errno(ErrorCode::Internal, errno, "cannot set up a pseudo-terminal");
  }
  std::string path = name.data();
  VMMD_ASSIGN(UniqueFd slave, open_file(path, O_RDWR | O_NOCTTY));
  VMMD_TRY(make_raw(slave.get(), path));
  slave.reset();  // before the watch, which would take us for a reader

  UniqueFd inotify(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
  const bool watched = inotify && ::inotify_add_watch(inotify.get(), path.c_str(), IN_OPEN | IN_CLOSE) >= 0;
  if (!watched) {
    VMMD_ASSIGN(slave, open_file(path, O_RDWR | O_NOCTTY));
  }
  std::unique_ptr<PtyBackend> backend(new PtyBackend(loop, std::move(path), std::move(master)));
  if (watched) {
    backend->watch(std::move(inotify));
  } else {
    backend->hold(std::move(slave));
  }
  return backend;
}

PtyBackend::PtyBackend(loop::DeviceLoop& loop, std::string path, UniqueFd master)
    : StreamBackend(loop, NoPeer::Keep),
      path_(std::move(path)),
      master_(make_descriptor(std::move(master))) {}

PtyBackend::~PtyBackend() {
  shut_down();
}

void PtyBackend::watch(UniqueFd inotify) {
  inotify_ = make_descriptor(std::move(inotify));
  // Reads until EAGAIN, then waits.
  later([this] { on_watch_event(); });
}

void PtyBackend::hold(UniqueFd slave) {
  held_slave_ = std::move(slave);
  later([this] { look_for_reader(); });
}

void PtyBackend::on_watch_event() {
  // What happened does not matter (equal events are merged): how things stand now does.
  alignas(inotify_event) std::array<std::byte, 4096> events;
  ssize_t n = 0;
  do {
    n = ::read(inotify_->native_handle(), events.data(), events.size());
  } while (n > 0 || (n < 0 && errno == EINTR));
  look_for_reader();
  if (n < 0 && errno == EAGAIN) {
    inotify_->async_wait(Descriptor::wait_read, guarded([this] { on_watch_event(); }));
  }
}

bool PtyBackend::hung_up() const {
  pollfd master = {.fd = master_->native_handle(), .events = 0, .revents = 0};
  return ::poll(&master, 1, 0) > 0 && (master.revents & POLLHUP) != 0;
}

void PtyBackend::look_for_reader() {
  if (hung_up()) {
    close_output();  // input ends by itself, behind what the reader had still typed
    return;
  }
  look_at_size();
  if (!output_open()) open_output(master_);
  if (!input_open()) open_input(master_);
}

void PtyBackend::look_at_size() {
  winsize size = {};
  if (::ioctl(master_->native_handle(), TIOCGWINSZ, &size) == 0) set_size({size.ws_col, size.ws_row});
}

void PtyBackend::on_output_error(int) {
  close_output();
}

void PtyBackend::on_input_end(int) {
  close_input();
  if (hung_up()) close_output();
}

}  // namespace vmmd::chardev
