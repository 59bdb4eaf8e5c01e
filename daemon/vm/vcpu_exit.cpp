#include "daemon/vm/vcpu_exit.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fmt/format.h>

namespace vmmd::vm {

namespace {

// "rip 0xffffffff81000000, CPL 0, CR3 0x1000": enough to find the place in a kernel's symbols.
std::string where(const kvm::VcpuFd& fd) {
  const auto regs = fd.get<KVM_GET_REGS, kvm_regs>("KVM_GET_REGS");
  const auto sregs = fd.get<KVM_GET_SREGS, kvm_sregs>("KVM_GET_SREGS");
  if (!regs || !sregs) return "registers unreadable";
  return fmt::format("rip {:#x}, rsp {:#x}, CPL {}, CR0 {:#x}, CR2 {:#x}, CR3 {:#x}", regs->rip, regs->rsp,
                     sregs->ss.dpl, sregs->cr0, sregs->cr2, sregs->cr3);
}

std::string hex_bytes(const std::uint8_t* bytes, std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += fmt::format("{}{:02x}", i == 0 ? "" : " ", bytes[i]);
  return text;
}

std::string internal_error(const kvm_run& run) {
  if (run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION) {
    const auto& failure = run.emulation_failure;
    std::array<std::uint8_t, 15> bytes{};
    std::size_t count = 0;
    // The flags word and the bytes are there if ndata says so (KVM API, KVM_EXIT_INTERNAL_ERROR).
    if (failure.ndata >= 3 && (failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES) != 0) {
      count = std::min<std::size_t>(failure.insn_size, bytes.size());
      std::memcpy(bytes.data(), failure.insn_bytes, count);
    }
    if (count == 0) return "KVM cannot emulate the guest's instruction (its bytes are not known)";
    return fmt::format("KVM cannot emulate the guest's instruction; bytes: {}",
                       hex_bytes(bytes.data(), count));
  }
  std::string data;
  const std::size_t count = std::min<std::size_t>(run.internal.ndata, std::size(run.internal.data));
  for (std::size_t i = 0; i < count; ++i) data += fmt::format(" {:#x}", run.internal.data[i]);
  return fmt::format("KVM reports internal error {} with data{}", run.internal.suberror,
                     data.empty() ? " none" : data);
}

}  // namespace

const char* to_string(VcpuStop::Reason reason) {
  switch (reason) {
    case VcpuStop::Reason::TripleFault:
      return "triple-fault";
    case VcpuStop::Reason::InternalError:
      return "internal-error";
    case VcpuStop::Reason::EntryFailed:
      return "entry-failed";
    case VcpuStop::Reason::RunFailed:
      return "run-failed";
    case VcpuStop::Reason::MemoryLost:
      return "memory-lost";
    case VcpuStop::Reason::Reset:
      return "reset";
    case VcpuStop::Reason::Shutdown:
      return "shutdown";
  }
  return "?";
}

VcpuStop describe_stop(unsigned index, const kvm::VcpuFd& fd) {
  const kvm_run& run = fd.run_page();
  switch (run.exit_reason) {
    case KVM_EXIT_SHUTDOWN:
      return {index, VcpuStop::Reason::TripleFault,
              fmt::format("vCPU {}: triple fault: the guest could not handle an exception ({})", index,
                          where(fd))};
    case KVM_EXIT_INTERNAL_ERROR:
      return {index, VcpuStop::Reason::InternalError,
              fmt::format("vCPU {}: {} ({})", index, internal_error(run), where(fd))};
    case KVM_EXIT_FAIL_ENTRY:
      return {
          index, VcpuStop::Reason::EntryFailed,
          fmt::format(
              "vCPU {}: the CPU refused to enter the guest, hardware reason {:#x} on host CPU {} ({})", index,
              std::uint64_t{run.fail_entry.hardware_entry_failure_reason}, run.fail_entry.cpu, where(fd))};
    case KVM_EXIT_SYSTEM_EVENT:
      if (run.system_event.type == KVM_SYSTEM_EVENT_RESET)
        return {index, VcpuStop::Reason::Reset, "reset by the guest"};
      if (run.system_event.type == KVM_SYSTEM_EVENT_SHUTDOWN) {
        return {index, VcpuStop::Reason::Shutdown, "shutdown by the guest"};
      }
      return {index, VcpuStop::Reason::InternalError,
              fmt::format("vCPU {}: the guest crashed (system event {})", index, run.system_event.type)};
    default:
      return {
          index, VcpuStop::Reason::InternalError,
          fmt::format("vCPU {}: KVM exit {} is not known to vmmd ({})", index, run.exit_reason, where(fd))};
  }
}

VcpuStop describe_failure(unsigned index, const kvm::VcpuFd& fd, int error) {
  if (error == EFAULT) {
    return {
        index, VcpuStop::Reason::MemoryLost,
        fmt::format("vCPU {}: the host has no page for the guest RAM or pmem that was touched: its memory "
                    "file was cut, its filesystem is full, or the host's memory failed ({})",
                    index, where(fd))};
  }
  return {index, VcpuStop::Reason::RunFailed,
          fmt::format("vCPU {}: KVM_RUN failed: {} ({})", index, std::strerror(error), where(fd))};
}

}  // namespace vmmd::vm
