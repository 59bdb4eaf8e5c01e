#include "remote/interrupt.h"

#include <sys/signalfd.h>

#include <cerrno>
#include <utility>

namespace vmmd::remote {

Result<Interrupts> Interrupts::take(std::initializer_list<int> signals) {
  sigset_t wanted;
  sigemptyset(&wanted);
  for (const int signal : signals) sigaddset(&wanted, signal);
  Interrupts taken;
  taken.fd_ = UniqueFd(::signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!taken.fd_) return fail_errno(ErrorCode::Internal, errno, "cannot wait for signals");
  pthread_sigmask(SIG_BLOCK, &wanted, &taken.before_);
  return taken;
}

Interrupts::Interrupts(Interrupts&& other) noexcept : fd_(std::move(other.fd_)), before_(other.before_) {}

Interrupts::~Interrupts() {
  if (!fd_) return;
  // What came was for us, and must not end the program when it is let through.
  while (next() != 0) {
  }
  pthread_sigmask(SIG_SETMASK, &before_, nullptr);
}

int Interrupts::next() {
  signalfd_siginfo info = {};
  if (::read(fd_.get(), &info, sizeof info) != sizeof info) return 0;
  return static_cast<int>(info.ssi_signo);
}

}  // namespace vmmd::remote
