#include "remote/console.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

#include <fmt/format.h>

#include "api/option_text.h"
#include "base/file.h"
#include "remote/interrupt.h"
#include "remote/session.h"
#include "remote/terminal.h"
#include "remote/vm_state.h"

namespace vmmd::remote {

namespace {

/// What is typed ahead of a guest that does not read.
constexpr std::size_t kTypedAhead = 64 << 10;  // bytes

Result<UniqueFd> connect_socket(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) {
    return fail(ErrorCode::BadRequest, "the console's socket has too long a path: {}", path);
  }
  path.copy(address.sun_path, path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return fail_errno(ErrorCode::Internal, errno, "cannot make a socket");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return fail_errno(ErrorCode::BadRequest, errno, "cannot connect to the console's socket {}", path);
  }
  ::fcntl(fd.get(), F_SETFL, O_NONBLOCK);
  return fd;
}

bool leads_here(const ConsolePlace& place) {
  return place.mode == "Socket" || place.mode == "Pty";
}

/// The host's end of the serial port or the virtio console. Does not wait when read or written.
Result<UniqueFd> open_console(const Session& session, const Arguments& arguments, std::string& path) {
  VMMD_ASSIGN(const auto summary, vm_summary(session.client()));
  if (!summary) return fail(ErrorCode::NotFound, "there is no VM");
  const auto device = arguments.find("--device");
  const bool virtio = device ? api::equal_ignoring_case(*device, "console")
                             : !leads_here(summary->serial) && leads_here(summary->console);
  const ConsolePlace& place = virtio ? summary->console : summary->serial;
  const std::string_view name = virtio ? "virtio console" : "serial port";
  path = place.path;
  const std::string advice = fmt::format("create the VM with --{0} pty or --{0} socket=PATH to attach to it",
                                         virtio ? "console" : "serial");
  if (place.mode == "Socket") return connect_socket(place.path);
  if (place.mode == "Pty" && !place.path.empty()) {
    return open_file(place.path, O_RDWR | O_NOCTTY | O_NONBLOCK);
  }
  if (place.mode == "File") {
    return fail(ErrorCode::BadRequest, "the {} only writes to {}: tail -f shows it; {}", name, place.path,
                advice);
  }
  if (place.mode == "Tty") {
    return fail(ErrorCode::BadRequest, "the {} is at the daemon's own terminal; {}", name, advice);
  }
  return fail(ErrorCode::BadRequest, "the {} leads nowhere (mode {}); {}", name, place.mode, advice);
}

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t size = ::write(fd, text.data(), text.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0 && errno == EAGAIN) {
      pollfd entry = {fd, POLLOUT, 0};
      ::poll(&entry, 1, -1);
      continue;
    }
    if (size < 0) return false;
    text.remove_prefix(static_cast<std::size_t>(size));
  }
  return true;
}

/// Moves bytes both ways until one end is gone.
class Bridge {
 public:
  enum class End { Escape, Guest, Signal, Output };

  Bridge(int serial, int signals, EscapeFilter escape)
      : serial_(serial), signals_(signals), escape_(escape) {}

  End run() {
    for (;;) {
      const bool reads = typing_ && to_guest_.size() < kTypedAhead;
      pollfd entries[] = {
          {signals_, POLLIN, 0},
          {serial_, static_cast<short>(to_guest_.empty() ? POLLIN : POLLIN | POLLOUT), 0},
          {reads ? STDIN_FILENO : -1, POLLIN, 0},
      };
      if (::poll(entries, std::size(entries), -1) < 0) {
        if (errno == EINTR) continue;
        return End::Signal;
      }
      if (entries[0].revents != 0) return End::Signal;
      if ((entries[1].revents & (POLLIN | POLLHUP | POLLERR)) != 0) {
        if (const auto end = from_guest()) return *end;
      }
      if (entries[2].revents != 0) read_typed();
      if (!to_guest_.empty() && !send()) return End::Guest;
      if (escape_.escaped()) return End::Escape;
    }
  }

 private:
  std::optional<End> from_guest() {
    char chunk[16 << 10];
    const ssize_t size = ::read(serial_, chunk, sizeof chunk);
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) return std::nullopt;
    if (size <= 0) return End::Guest;  // a pty whose master is gone says EIO
    if (!write_all(STDOUT_FILENO, {chunk, static_cast<std::size_t>(size)})) return End::Output;
    return std::nullopt;
  }

  void read_typed() {
    char chunk[4 << 10];
    const ssize_t size = ::read(STDIN_FILENO, chunk, sizeof chunk);
    if (size < 0 && (errno == EINTR || errno == EAGAIN)) return;
    if (size > 0) {
      to_guest_ += escape_.feed({chunk, static_cast<std::size_t>(size)});
    } else {
      typing_ = false;
    }
  }

  bool send() {
    const ssize_t size = ::write(serial_, to_guest_.data(), to_guest_.size());
    if (size < 0) return errno == EINTR || errno == EAGAIN;
    to_guest_.erase(0, static_cast<std::size_t>(size));
    return true;
  }

  const int serial_;
  const int signals_;
  EscapeFilter escape_;
  bool typing_ = true;  // standard input has not ended
  std::string to_guest_;
};

}  // namespace

std::string check_console(const Arguments& arguments) {
  const auto escape = EscapeFilter::parse(arguments.find("--escape").value_or("^]"));
  return escape ? std::string() : "--escape: " + escape.error().to_string();
}

Status run_console(Session& session, const Command&, const Arguments& arguments) {
  VMMD_ASSIGN(const EscapeFilter escape, EscapeFilter::parse(arguments.find("--escape").value_or("^]")));
  std::string path;
  VMMD_ASSIGN(const UniqueFd serial, open_console(session, arguments, path));
  // While the terminal is raw, no signal may end us before it is set back.
  VMMD_ASSIGN(const Interrupts interrupts, Interrupts::take());
  const bool tells = ::isatty(STDIN_FILENO) != 0 && !session.globals().quiet;
  if (tells) {
    fmt::print(stderr, "Connected to {}. {}\n", path,
               escape.hint().empty() ? "Nothing typed leaves." : escape.hint() + " leaves.");
  }
  Bridge::End end = Bridge::End::Signal;
  {
    const RawTerminal raw;
    end = Bridge(serial.get(), interrupts.fd(), escape).run();
  }
  if (tells) {
    fmt::print(stderr, "\r\n{}\n", end == Bridge::End::Guest ? "The VM closed it." : "Left.");
  }
  if (end == Bridge::End::Output) return fail(ErrorCode::Internal, "cannot write to standard output");
  return {};
}

Status run_input(Session& session, const Command&, const Arguments& arguments) {
  std::string path;
  VMMD_ASSIGN(const UniqueFd serial, open_console(session, arguments, path));
  const std::string line = fmt::format("{}\n", fmt::join(arguments.all("text"), " "));
  if (!write_all(serial.get(), line)) {
    return fail_errno(ErrorCode::Internal, errno, "cannot write to {}", path);
  }
  return {};
}

}  // namespace vmmd::remote
