#include "daemon/x86/loader.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/file.h"
#include "daemon/x86/kernel_file.h"

namespace vmmd::x86 {

using devices::GuestAddress;

namespace {

using namespace std::string_view_literals;

constexpr std::string_view kElfMagic =
    "\x7f"
    "ELF";
// Documentation/arch/x86/boot.rst: boot_flag, header.
constexpr std::size_t kBootFlagOffset = 0x1FE;
constexpr std::uint16_t kBootFlag = 0xAA55;
constexpr std::size_t kSetupMagicOffset = 0x202;
constexpr std::uint32_t kSetupMagic = 0x5372'6448;  // "HdrS"

/// What users give by mistake, by its first bytes, and what to do.
struct NotKernel {
  std::string_view magic;
  std::string_view what;
};
constexpr NotKernel kNotKernels[] = {
    {"#!"sv, "a script"},
    {"\x1f\x8b"sv, "compressed with gzip: decompress it first"},
    {"\xfd"
     "7zXZ\0"sv,
     "compressed with xz: decompress it first"},
    {"\x28\xb5\x2f\xfd"sv, "compressed with zstd: decompress it first"},
    {"BZh"sv, "compressed with bzip2: decompress it first"},
    {"\x02\x21\x4c\x18"sv, "compressed with lz4: decompress it first"},
    {"070701"sv, "a cpio archive: perhaps it is the initramfs"},
    {"MZ"sv, "an EFI program without a Linux setup header: give the bzImage that it was made from"},
    {"QFI\xfb"sv, "a qcow2 disk image"},
};

bool starts_with(std::span<const std::byte> bytes, std::string_view magic) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

Error not_a_kernel(const KernelFile& kernel) {
  for (const NotKernel& candidate : kNotKernels) {
    if (starts_with(kernel.head(), candidate.magic)) {
      return fail(ErrorCode::BadRequest, "kernel {} is {}", kernel.name, candidate.what).value();
    }
  }
  return fail(ErrorCode::BadRequest, "kernel {} is neither an ELF file nor a bzImage", kernel.name).value();
}

}  // namespace

std::string_view to_string(BootProtocol protocol) {
  switch (protocol) {
    case BootProtocol::Pvh:
      return "PVH";
    case BootProtocol::Linux64:
      return "Linux, 64-bit entry";
    case BootProtocol::Linux32:
      return "Linux, 32-bit entry";
  }
  return "?";
}

Result<LoadedKernel> load_kernel(const devices::GuestMemory& memory, const std::vector<memory::RamRange>& ram,
                                 const BootFiles& files, GuestAddress rsdp) {
  if (ram.empty() || ram.front().size <= memory::kHighMemoryStart) {
    return fail(ErrorCode::BadRequest,
                "memory is {} bytes; kernels are loaded from 1 MiB up: give the VM more memory",
                ram.empty() ? 0 : ram.front().size);
  }
  auto size = file_size(files.kernel_fd, files.kernel_name);
  if (!size) return wrap(std::move(size).error(), "cannot load kernel {}", files.kernel_name);
  if (*size == 0) return fail(ErrorCode::BadRequest, "kernel {} is empty", files.kernel_name);

  KernelFile kernel{files.kernel_fd, files.kernel_name, *size, {}};
  VMMD_TRY(
      read_exact_at(kernel.fd, std::span(kernel.head_bytes).first(kernel.head().size()), 0, kernel.name));

  const BootTarget target{memory, ram, files, rsdp};
  if (starts_with(kernel.head(), kElfMagic)) return load_pvh(kernel, target);
  if (kernel.peek<std::uint16_t>(kBootFlagOffset) == kBootFlag &&
      kernel.peek<std::uint32_t>(kSetupMagicOffset) == kSetupMagic) {
    return load_bzimage(kernel, target);
  }
  return tl::make_unexpected(not_a_kernel(kernel));
}

}  // namespace vmmd::x86
