#include "daemon/chardev/tty_backend.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <utility>

#include <fmt/core.h>

namespace vmmd::chardev {

namespace {

/// stdin and stdout are the process's, so this is too: what to put back, also from exit().
struct Terminal {
  std::atomic<bool> in_use = false;
  std::atomic<bool> raw = false;
  termios settings = {};
  std::array<int, 2> flags = {-1, -1};  // of descriptors whose O_NONBLOCK we set
  std::atomic<int> resized = -1;        // the eventfd for SIGWINCH
};
Terminal terminal;

void on_resize_signal(int) {
  const int saved = errno;
  const std::uint64_t one = 1;
  const int fd = terminal.resized;
  if (fd >= 0) static_cast<void>(!::write(fd, &one, sizeof one));
  errno = saved;
}

/// Changing or reading a terminal from its background would stop us (SIGTTOU, SIGTTIN). A terminal that does
/// not control us (-1) has no background.
bool in_background() {
  const pid_t foreground = ::tcgetpgrp(STDIN_FILENO);
  return foreground >= 0 && foreground != ::getpgrp();
}

void restore_terminal() {
  // Not TCSADRAIN: it waits for a terminal that has been stopped.
  if (terminal.raw.exchange(false) && !in_background()) {
    ::tcsetattr(STDIN_FILENO, TCSANOW, &terminal.settings);
  }
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO}) {
    int& flags = terminal.flags[static_cast<std::size_t>(fd)];
    if (flags >= 0) ::fcntl(fd, F_SETFL, flags);
    flags = -1;
  }
}

/// False where stdin is a terminal that is not ours to read.
bool make_raw() {
  if (::isatty(STDIN_FILENO) == 0) return true;
  if (in_background()) return false;
  if (::tcgetattr(STDIN_FILENO, &terminal.settings) != 0) return true;
  termios raw = terminal.settings;
  ::cfmakeraw(&raw);
  raw.c_oflag |= OPOST;
  static const bool registered = ::atexit(restore_terminal) == 0;
  static_cast<void>(registered);
  terminal.raw = ::tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  return true;
}

/// A descriptor of our own for stdin or stdout that does not block; none if it is closed.
UniqueFd own_stdio(int fd, int access) {
  struct stat info = {};
  if (::fstat(fd, &info) != 0) return {};
  // A regular file never blocks, and opened anew it would lose its offset.
  if (!S_ISREG(info.st_mode)) {
    const std::string path = fmt::format("/proc/self/fd/{}", fd);
    UniqueFd anew(::open(path.c_str(), access | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    if (anew) return anew;
    const int flags = ::fcntl(fd, F_GETFL);
    if (flags >= 0 && (flags & O_NONBLOCK) == 0 && ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0) {
      terminal.flags[static_cast<std::size_t>(fd)] = flags;
    }
  }
  return UniqueFd(::fcntl(fd, F_DUPFD_CLOEXEC, 3));
}

}  // namespace

Result<std::unique_ptr<TtyBackend>> TtyBackend::open(loop::DeviceLoop& loop) {
  if (terminal.in_use.exchange(true)) {
    return fail(ErrorCode::Conflict,
                "stdin and stdout already serve another device; give one of them mode Pty, File or Socket");
  }
  return std::unique_ptr<TtyBackend>(new TtyBackend(loop));
}

TtyBackend::TtyBackend(loop::DeviceLoop& loop) : StreamBackend(loop, NoPeer::Drop) {
  UniqueFd out = own_stdio(STDOUT_FILENO, O_WRONLY);
  UniqueFd in = make_raw() ? own_stdio(STDIN_FILENO, O_RDONLY) : UniqueFd();
  if (out) open_output(make_descriptor(std::move(out)));
  if (in) open_input(make_descriptor(std::move(in)));
  if (::isatty(STDOUT_FILENO) == 0) return;
  UniqueFd resized(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
  if (!resized) return;  // the size stays what it is now
  terminal.resized = resized.get();
  resized_ = make_descriptor(std::move(resized));
  struct sigaction action = {};
  action.sa_handler = on_resize_signal;
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGWINCH, &action, nullptr);
  later([this] { watch_size(); });
}

void TtyBackend::watch_size() {
  look_at_size();
  resized_->async_wait(Descriptor::wait_read, guarded([this] {
                         std::uint64_t count = 0;
                         static_cast<void>(!::read(resized_->native_handle(), &count, sizeof count));
                         watch_size();
                       }));
}

void TtyBackend::look_at_size() {
  winsize size = {};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) set_size({size.ws_col, size.ws_row});
}

TtyBackend::~TtyBackend() {
  if (resized_ != nullptr) {
    ::signal(SIGWINCH, SIG_DFL);
    terminal.resized = -1;
  }
  shut_down();
  restore_terminal();
  terminal.in_use = false;
}

void TtyBackend::on_output_error(int) {
  close_output();
}

void TtyBackend::on_input_end(int) {
  close_input();
}

}  // namespace vmmd::chardev
