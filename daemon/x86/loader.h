#pragma once

#include <linux/kvm.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "daemon/memory/layout.h"
#include "devices/guest_address.h"
#include "devices/guest_memory.h"

namespace vmmd::x86 {

/// What the user gave to boot. The descriptors stay the caller's and only pread is used on them, so their
/// file offset does not matter. The names are for error messages.
struct BootFiles {
  int kernel_fd = -1;
  std::string kernel_name;
  int initramfs_fd = -1;  // -1: none
  std::string initramfs_name;
  std::string cmdline;  // as the guest gets it, without the closing NUL
};

enum class BootProtocol : std::uint8_t {
  Pvh,      // ELF64 with Xen's note 18: 32-bit protected mode, EBX = hvm_start_info
  Linux64,  // bzImage, protocol 2.12 and later: long mode, RSI = zero page
  Linux32,  // bzImage of a 32-bit or older kernel (2.10 and later): protected mode, ESI = zero page
};
[[nodiscard]] std::string_view to_string(BootProtocol protocol);

struct LoadedKernel {
  BootProtocol protocol = BootProtocol::Pvh;
  devices::GuestAddress entry;
  devices::GuestAddress boot_info;  // hvm_start_info or zero page
};

/// Puts kernel, initramfs, command line and boot information into guest memory, as boot_layout.h draws it.
///
/// `ram` is ram_layout()'s answer for the memory that `memory` maps; `rsdp` goes to the kernel as it is (the
/// ACPI tables may be written before or after). Files are hostile: every field is checked before it is used,
/// and whatever is wrong with them is BadRequest. An error may leave guest memory partly written.
Result<LoadedKernel> load_kernel(const devices::GuestMemory& memory, const std::vector<memory::RamRange>& ram,
                                 const BootFiles& files, devices::GuestAddress rsdp);

/// Registers of the boot processor, and the GDT and page tables that they point to. `sregs` comes as
/// KVM_GET_SREGS gave it: what no protocol speaks of (APIC base, pending interrupts) is left alone. `regs` is
/// set as a whole.
Status set_boot_registers(const LoadedKernel& kernel, const devices::GuestMemory& memory, kvm_regs& regs,
                          kvm_sregs& sregs);

}  // namespace vmmd::x86
