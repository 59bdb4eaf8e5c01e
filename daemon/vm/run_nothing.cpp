#include "daemon/vm/run_nothing.h"

#include <pthread.h>
#include <signal.h>

#include <array>
#include <cstdint>

namespace vmmd::vm {

namespace {

constexpr std::uint32_t kKernelSignals = 64;

/// KVM_SET_SIGNAL_MASK: what is blocked during KVM_RUN.
struct SignalMask {
  std::uint32_t length = kKernelSignals / 8;
  std::array<std::uint8_t, kKernelSignals / 8> blocked{};
};

}  // namespace

Result<int> run_nothing(const kvm::VcpuFd& vcpu, int signal) {
  sigset_t only;
  sigemptyset(&only);
  sigaddset(&only, signal);
  sigset_t before;
  pthread_sigmask(SIG_BLOCK, &only, &before);
  SignalMask during;
  Status status = vcpu.call(KVM_SET_SIGNAL_MASK, &during, "KVM_SET_SIGNAL_MASK");
  int error = 0;
  if (status) {
    pthread_kill(pthread_self(), signal);
    error = vcpu.run();
    status = vcpu.call(KVM_SET_SIGNAL_MASK, nullptr, "KVM_SET_SIGNAL_MASK");
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);  // the signal comes now
  if (!status) return tl::make_unexpected(std::move(status).error());
  return error;
}

}  // namespace vmmd::vm
